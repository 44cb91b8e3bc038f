#include "ops/router.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moesaic::ops {

template <class Sum>
void softmax(const ElementwiseKernels<Sum>& kernels, std::span<Sum> row) {
    const auto size = static_cast<index_t>(row.size());
    const Sum sum = kernels.exp(size, row.data(), Sum(1), kernels.largest(size, row.data()), Sum(1), row.data());
    for (Sum& value : row) {
        value /= sum;
    }
}

template <class Sum>
void choose_largest(std::span<const Sum> values, std::span<std::int32_t> ids) {
    std::size_t chosen = 0;
    for (std::size_t e = 0; e < values.size(); ++e) {
        if (chosen == ids.size() && !(values[e] > values[static_cast<std::size_t>(ids[chosen - 1])])) {
            continue;
        }
        std::size_t place = chosen < ids.size() ? chosen++ : chosen - 1;
        for (; place > 0 && values[e] > values[static_cast<std::size_t>(ids[place - 1])]; --place) {
            ids[place] = ids[place - 1];
        }
        ids[place] = static_cast<std::int32_t>(e);
    }
}

namespace {

/// Working memory of the choice for one token.
template <class Sum>
struct Preferences {
    Preferences(const RouterSettings& router, index_t experts)
        : values(static_cast<std::size_t>(experts)),
          groups(static_cast<std::size_t>(router.groups)),
          leaders(static_cast<std::size_t>(router.group_leaders)),
          chosen_groups(static_cast<std::size_t>(router.chosen_groups)) {}

    std::vector<Sum> values;  // [E]
    std::vector<Sum> groups;  // [groups]
    std::vector<std::int32_t> leaders;
    std::vector<std::int32_t> chosen_groups;
};

/// Sets the preference for experts outside of the best groups to zero, which is not minus infinity: with a correction
/// bias they may still be chosen, as in transformers.
template <class Sum>
void keep_best_groups(Preferences<Sum>& preferences) {
    const std::size_t size = preferences.values.size() / preferences.groups.size();
    for (std::size_t g = 0; g < preferences.groups.size(); ++g) {
        const std::span<const Sum> group(preferences.values.data() + g * size, size);
        choose_largest<Sum>(group, preferences.leaders);
        preferences.groups[g] = std::accumulate(
            preferences.leaders.begin(), preferences.leaders.end(), Sum(0),
            [&](Sum sum, std::int32_t leader) { return sum + group[static_cast<std::size_t>(leader)]; });
    }
    choose_largest<Sum>(preferences.groups, preferences.chosen_groups);
    for (std::size_t g = 0; g < preferences.groups.size(); ++g) {
        const auto& chosen = preferences.chosen_groups;
        if (std::find(chosen.begin(), chosen.end(), static_cast<std::int32_t>(g)) == chosen.end()) {
            std::fill_n(preferences.values.data() + g * size, size, Sum(0));
        }
    }
}

}  // namespace

template <class Sum>
void route_forward(const ElementwiseKernels<Sum>& kernels, const RouterSettings& router,
                   std::span<const Sum> correction_bias, MatrixView<Sum> scores, MatrixView<std::int32_t> expert_ids,
                   MatrixView<Sum> weights) {
    // Nothing in the parallel region allocates, so that no exception can leave it.
    std::vector<Preferences<Sum>> of_thread(static_cast<std::size_t>(omp_get_max_threads()),
                                            Preferences<Sum>(router, scores.cols()));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < scores.rows(); ++row) {
        const std::span<Sum> all = scores.row(row);
        if (router.scoring == Scoring::softmax) {
            softmax<Sum>(kernels, all);
        } else {
            std::transform(all.begin(), all.end(), all.begin(), [](Sum x) { return 1 / (1 + std::exp(-x)); });
        }
        Preferences<Sum>& preferences = of_thread[static_cast<std::size_t>(omp_get_thread_num())];
        std::copy(all.begin(), all.end(), preferences.values.begin());
        for (std::size_t e = 0; e < correction_bias.size(); ++e) {
            preferences.values[e] += correction_bias[e];
        }
        if (router.groups > 1) {
            keep_best_groups(preferences);
        }
        choose_largest<Sum>(preferences.values, expert_ids.row(row));
        Sum sum = 0;
        for (index_t k = 0; k < weights.cols(); ++k) {
            weights(row, k) = scores(row, expert_ids(row, k));
            sum += weights(row, k);
        }
        const Sum divisor = router.normalize ? sum + static_cast<Sum>(router.epsilon) : Sum(1);
        for (Sum& weight : weights.row(row)) {
            weight = weight / divisor * static_cast<Sum>(router.scale);
        }
    }
}

template <class Sum>
void route_backward(const RouterSettings& router, MatrixView<const Sum> scores,
                    MatrixView<const std::int32_t> expert_ids, MatrixView<const Sum> weights,
                    MatrixView<const Sum> grad_weights, MatrixView<Sum> grad_logits) {
    const auto scale = static_cast<Sum>(router.scale);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < scores.rows(); ++row) {
        // w = c p / d with c the scale and d the sum of the chosen scores p: dp_k = (c dw_k - <dw, w>) / d; without
        // normalisation dp = c dw.
        Sum divisor = 1;
        Sum projection = 0;
        if (router.normalize) {
            divisor = static_cast<Sum>(router.epsilon);
            for (index_t k = 0; k < weights.cols(); ++k) {
                divisor += scores(row, expert_ids(row, k));
                projection += grad_weights(row, k) * weights(row, k);
            }
        }
        std::fill_n(grad_logits[row], grad_logits.cols(), Sum(0));
        Sum mean = 0;  // <dp, p>
        for (index_t k = 0; k < weights.cols(); ++k) {
            const index_t expert = expert_ids(row, k);
            const Sum grad = (scale * grad_weights(row, k) - projection) / divisor;
            grad_logits(row, expert) = grad;
            mean += grad * scores(row, expert);
        }
        for (index_t e = 0; e < scores.cols(); ++e) {
            const Sum p = scores(row, e);
            // Softmax: dl = p (dp - <dp, p>); sigmoid: dl = p (1 - p) dp.
            grad_logits(row, e) = router.scoring == Scoring::softmax ? p * (grad_logits(row, e) - mean)
                                                                     : p * (1 - p) * grad_logits(row, e);
        }
    }
}

#define MOESAIC_INSTANTIATE(Sum)                                                                                    \
    template void softmax<Sum>(const ElementwiseKernels<Sum>&, std::span<Sum>);                                     \
    template void choose_largest<Sum>(std::span<const Sum>, std::span<std::int32_t>);                               \
    template void route_forward<Sum>(const ElementwiseKernels<Sum>&, const RouterSettings&, std::span<const Sum>,   \
                                     MatrixView<Sum>, MatrixView<std::int32_t>, MatrixView<Sum>);                   \
    template void route_backward<Sum>(const RouterSettings&, MatrixView<const Sum>, MatrixView<const std::int32_t>, \
                                      MatrixView<const Sum>, MatrixView<const Sum>, MatrixView<Sum>);
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
