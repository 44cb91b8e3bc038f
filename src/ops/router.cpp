#include "ops/router.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moesaic::ops {

template <class A>
void softmax(const ElementwiseKernels<A>& kernels, std::span<A> row) {
    const auto size = static_cast<index_t>(row.size());
    const A sum = kernels.exp(size, row.data(), A(1), kernels.largest(size, row.data()), A(1), row.data());
    for (A& value : row) {
        value /= sum;
    }
}

template <class A>
void choose_largest(std::span<const A> values, std::span<std::int32_t> ids) {
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
template <class A>
struct Preferences {
    Preferences(const RouterSettings& router, index_t experts)
        : values(static_cast<std::size_t>(experts)),
          groups(static_cast<std::size_t>(router.groups)),
          leaders(static_cast<std::size_t>(router.group_leaders)),
          chosen_groups(static_cast<std::size_t>(router.chosen_groups)) {}

    std::vector<A> values;  // [E]
    std::vector<A> groups;  // [groups]
    std::vector<std::int32_t> leaders;
    std::vector<std::int32_t> chosen_groups;
};

/// Sets the preference for experts outside of the best groups to zero, which is not minus infinity: with a correction
/// bias they may still be chosen, as in transformers.
template <class A>
void keep_best_groups(Preferences<A>& preferences) {
    const std::size_t size = preferences.values.size() / preferences.groups.size();
    for (std::size_t g = 0; g < preferences.groups.size(); ++g) {
        const std::span<const A> group(preferences.values.data() + g * size, size);
        choose_largest<A>(group, preferences.leaders);
        preferences.groups[g] =
            std::accumulate(preferences.leaders.begin(), preferences.leaders.end(), A(0),
                            [&](A sum, std::int32_t leader) { return sum + group[static_cast<std::size_t>(leader)]; });
    }
    choose_largest<A>(preferences.groups, preferences.chosen_groups);
    for (std::size_t g = 0; g < preferences.groups.size(); ++g) {
        const auto& chosen = preferences.chosen_groups;
        if (std::find(chosen.begin(), chosen.end(), static_cast<std::int32_t>(g)) == chosen.end()) {
            std::fill_n(preferences.values.data() + g * size, size, A(0));
        }
    }
}

}  // namespace

template <class A>
void route_forward(const ElementwiseKernels<A>& kernels, const RouterSettings& router,
                   std::span<const A> correction_bias, MatrixView<A> scores, MatrixView<std::int32_t> expert_ids,
                   MatrixView<A> weights) {
    // Nothing in the parallel region allocates, so that no exception can leave it.
    std::vector<Preferences<A>> of_thread(static_cast<std::size_t>(omp_get_max_threads()),
                                          Preferences<A>(router, scores.cols()));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < scores.rows(); ++row) {
        const std::span<A> all = scores.row(row);
        if (router.scoring == Scoring::softmax) {
            softmax<A>(kernels, all);
        } else {
            std::transform(all.begin(), all.end(), all.begin(), [](A x) { return 1 / (1 + std::exp(-x)); });
        }
        Preferences<A>& preferences = of_thread[static_cast<std::size_t>(omp_get_thread_num())];
        std::copy(all.begin(), all.end(), preferences.values.begin());
        for (std::size_t e = 0; e < correction_bias.size(); ++e) {
            preferences.values[e] += correction_bias[e];
        }
        if (router.groups > 1) {
            keep_best_groups(preferences);
        }
        choose_largest<A>(preferences.values, expert_ids.row(row));
        A sum = 0;
        for (index_t k = 0; k < weights.cols(); ++k) {
            weights(row, k) = scores(row, expert_ids(row, k));
            sum += weights(row, k);
        }
        const A divisor = router.normalize ? sum + static_cast<A>(router.epsilon) : A(1);
        for (A& weight : weights.row(row)) {
            weight = weight / divisor * static_cast<A>(router.scale);
        }
    }
}

template <class A>
void route_backward(const RouterSettings& router, MatrixView<const A> scores, MatrixView<const std::int32_t> expert_ids,
                    MatrixView<const A> weights, MatrixView<const A> grad_weights, MatrixView<A> grad_logits) {
    const auto scale = static_cast<A>(router.scale);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < scores.rows(); ++row) {
        // w = c p / d with c the scale and d the sum of the chosen scores p: dp_k = (c dw_k - <dw, w>) / d; without
        // normalisation dp = c dw.
        A divisor = 1;
        A projection = 0;
        if (router.normalize) {
            divisor = static_cast<A>(router.epsilon);
            for (index_t k = 0; k < weights.cols(); ++k) {
                divisor += scores(row, expert_ids(row, k));
                projection += grad_weights(row, k) * weights(row, k);
            }
        }
        std::fill_n(grad_logits[row], grad_logits.cols(), A(0));
        A mean = 0;  // <dp, p>
        for (index_t k = 0; k < weights.cols(); ++k) {
            const index_t expert = expert_ids(row, k);
            const A grad = (scale * grad_weights(row, k) - projection) / divisor;
            grad_logits(row, expert) = grad;
            mean += grad * scores(row, expert);
        }
        for (index_t e = 0; e < scores.cols(); ++e) {
            const A p = scores(row, e);
            // Softmax: dl = p (dp - <dp, p>); sigmoid: dl = p (1 - p) dp.
            grad_logits(row, e) = router.scoring == Scoring::softmax ? p * (grad_logits(row, e) - mean)
                                                                     : p * (1 - p) * grad_logits(row, e);
        }
    }
}

#define MOESAIC_INSTANTIATE(A)                                                                                  \
    template void softmax<A>(const ElementwiseKernels<A>&, std::span<A>);                                       \
    template void choose_largest<A>(std::span<const A>, std::span<std::int32_t>);                               \
    template void route_forward<A>(const ElementwiseKernels<A>&, const RouterSettings&, std::span<const A>,     \
                                   MatrixView<A>, MatrixView<std::int32_t>, MatrixView<A>);                     \
    template void route_backward<A>(const RouterSettings&, MatrixView<const A>, MatrixView<const std::int32_t>, \
                                    MatrixView<const A>, MatrixView<const A>, MatrixView<A>);
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
