#include "model/feed_forward/router_balance.hpp"

#include "ops/router.hpp"

#include <algorithm>
#include <numeric>

namespace moesaic::model {

template <class Sum>
void RouterLoad::add(MatrixView<const std::int32_t> expert_ids, index_t experts,
                     MatrixView<const Sum> probabilities_of_rows) {
    const auto size = static_cast<std::size_t>(experts);
    counts.resize(counts.size() + size, 0);
    const auto of_layer = std::span(counts).last(size);
    for (index_t row = 0; row < expert_ids.rows(); ++row) {
        for (const std::int32_t expert : expert_ids.row(row)) {
            ++of_layer[static_cast<std::size_t>(expert)];
        }
    }
    choices.resize(size, 0.0);
    probabilities.resize(size, 0.0);
    std::vector<std::int32_t> chosen(static_cast<std::size_t>(expert_ids.cols()));
    for (index_t row = 0; row < probabilities_of_rows.rows(); ++row) {
        ops::choose_largest<Sum>(probabilities_of_rows.row(row), chosen);
        for (const std::int32_t expert : chosen) {
            choices[static_cast<std::size_t>(expert)] += 1;
        }
        std::transform(probabilities.begin(), probabilities.end(), probabilities_of_rows[row], probabilities.begin(),
                       [](double sum, Sum p) { return sum + static_cast<double>(p); });
    }
    rows += static_cast<double>(probabilities_of_rows.rows());
}

RouterBalance router_balance(const RouterLoad& load, const mpi::Communicator& world) {
    const std::size_t experts = load.choices.size();
    std::vector<double> sums = load.choices;
    sums.insert(sums.end(), load.probabilities.begin(), load.probabilities.end());
    sums.push_back(load.rows);
    world.sum(std::span<double>(sums));
    RouterBalance balance;
    balance.gradient.assign(experts, 0.0);
    const double rows = sums.back();
    for (std::size_t e = 0; e < experts && rows > 0; ++e) {
        balance.gradient[e] = static_cast<double>(experts) * sums[e] / (rows * rows);
        balance.loss += balance.gradient[e] * sums[experts + e];
    }
    return balance;
}

template <class Sum>
void add_balance_gradient(MatrixView<const Sum> probabilities, std::span<const Sum> gradient,
                          MatrixView<Sum> grad_logits) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < probabilities.rows(); ++row) {
        const Sum* const p = probabilities[row];
        const Sum mean = std::inner_product(gradient.begin(), gradient.end(), p, Sum(0));
        for (std::size_t e = 0; e < gradient.size(); ++e) {
            grad_logits[row][e] += p[e] * (gradient[e] - mean);
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

template void RouterLoad::add<float>(MatrixView<const std::int32_t>, index_t, MatrixView<const float>);
template void RouterLoad::add<double>(MatrixView<const std::int32_t>, index_t, MatrixView<const double>);
template void add_balance_gradient<float>(MatrixView<const float>, std::span<const float>, MatrixView<float>);
template void add_balance_gradient<double>(MatrixView<const double>, std::span<const double>, MatrixView<double>);

}  // namespace moesaic::model
