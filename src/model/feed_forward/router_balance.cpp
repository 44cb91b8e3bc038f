#include "model/feed_forward/router_balance.hpp"

#include <algorithm>
#include <numeric>

namespace moesaic::model {

using core::bf16;

template <class T>
RouterBalance router_balance(const Architecture& architecture, const Tape<T>& tape, const mpi::Communicator& world) {
    const auto experts = static_cast<std::size_t>(architecture.experts);
    std::vector<double> sums(2 * experts + 1, 0.0);  // choices and probabilities of each expert, rows
    const std::span<double> choices(sums.data(), experts);
    const std::span<double> probabilities(sums.data() + experts, experts);
    std::vector<std::int32_t> chosen(static_cast<std::size_t>(architecture.experts_per_token));
    for (std::size_t layer = 0; layer < tape.layers.size(); ++layer) {
        if (!architecture.is_moe[layer]) {
            continue;
        }
        const auto rows = router_probabilities<T>(architecture, tape.layers[layer]);
        for (index_t row = 0; row < rows.rows(); ++row) {
            ops::choose_largest<accumulator_t<T>>(rows.row(row), chosen);
            for (const std::int32_t expert : chosen) {
                choices[static_cast<std::size_t>(expert)] += 1;
            }
            std::transform(probabilities.begin(), probabilities.end(), rows[row], probabilities.begin(),
                           [](double sum, accumulator_t<T> p) { return sum + static_cast<double>(p); });
        }
        sums.back() += static_cast<double>(rows.rows());
    }
    world.sum(std::span<double>(sums));
    RouterBalance balance;
    balance.gradient.assign(experts, 0.0);
    const double rows = sums.back();
    for (std::size_t e = 0; e < experts && rows > 0; ++e) {
        balance.gradient[e] = static_cast<double>(experts) * choices[e] / (rows * rows);
        balance.loss += balance.gradient[e] * probabilities[e];
    }
    return balance;
}

template <class A>
void add_balance_gradient(MatrixView<const A> probabilities, std::span<const A> gradient, MatrixView<A> grad_logits) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < probabilities.rows(); ++row) {
        const A* const p = probabilities[row];
        const A mean = std::inner_product(gradient.begin(), gradient.end(), p, A(0));
        for (std::size_t e = 0; e < gradient.size(); ++e) {
            grad_logits[row][e] += p[e] * (gradient[e] - mean);
        }
    }
}

template <class T>
void count_experts(const Architecture& architecture, const Tape<T>& tape, std::span<index_t> counts) {
    std::size_t begin = 0;
    for (std::size_t layer = 0; layer < tape.layers.size(); ++layer) {
        if (architecture.is_moe[layer]) {
            for (const std::int32_t expert : tape.layers[layer].expert_ids.flat()) {
                ++counts[begin + static_cast<std::size_t>(expert)];
            }
            begin += static_cast<std::size_t>(architecture.experts);
        }
    }
}

ExpertLoad expert_load(std::span<const index_t> counts, index_t experts) {
    ExpertLoad load;
    load.unused = std::count(counts.begin(), counts.end(), index_t{0});
    const auto size = static_cast<std::size_t>(experts);
    for (std::size_t begin = 0; begin < counts.size(); begin += size) {
        const auto layer = counts.subspan(begin, size);
        const auto total = static_cast<double>(std::accumulate(layer.begin(), layer.end(), index_t{0}));
        const auto largest = static_cast<double>(*std::max_element(layer.begin(), layer.end()));
        if (total > 0) {
            load.largest_ratio = std::max(load.largest_ratio, largest * static_cast<double>(experts) / total);
        }
    }
    return load;
}

#define MOESAIC_INSTANTIATE(T)                                                                               \
    template RouterBalance router_balance<T>(const Architecture&, const Tape<T>&, const mpi::Communicator&); \
    template void count_experts<T>(const Architecture&, const Tape<T>&, std::span<index_t>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE
template void add_balance_gradient<float>(MatrixView<const float>, std::span<const float>, MatrixView<float>);
template void add_balance_gradient<double>(MatrixView<const double>, std::span<const double>, MatrixView<double>);

}  // namespace moesaic::model
