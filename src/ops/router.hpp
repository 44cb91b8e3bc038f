// The frozen router: scores, the choice of K experts, their weights; and the exact gradient through it.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"

#include <cstdint>
#include <span>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;
using kernels::ElementwiseKernels;

enum class Scoring : std::uint8_t { softmax, sigmoid };

/// How a family turns logits into chosen experts and their weights.
struct RouterSettings {
    Scoring scoring = Scoring::softmax;
    index_t groups = 1;                ///< of consecutive experts
    index_t chosen_groups = 1;         ///< only experts of the best groups are chosen
    index_t group_leaders = 1;         ///< a group is as good as the sum of its best so many scores
    bool has_correction_bias = false;  ///< added to scores for the choice, not for the weights
    bool normalize = false;            ///< weights are divided by their sum plus epsilon
    double epsilon = 0;
    double scale = 1;  ///< on all weights

    friend bool operator==(const RouterSettings&, const RouterSettings&) = default;
};

/// From logits to the chosen experts. `scores` [T, E] holds logits on entry and scores afterwards; expert_ids [T, K] in
/// order of falling preference (of equal ones the lower number first); weights [T, K]. correction_bias: [E] or empty.
template <class Sum>
void route_forward(const ElementwiseKernels<Sum>& kernels, const RouterSettings& router,
                   std::span<const Sum> correction_bias, MatrixView<Sum> scores, MatrixView<std::int32_t> expert_ids,
                   MatrixView<Sum> weights);

/// grad_logits [T, E] from grad_weights = dL/dweights [T, K]. The choice of experts is constant.
template <class Sum>
void route_backward(const RouterSettings& router, MatrixView<const Sum> scores,
                    MatrixView<const std::int32_t> expert_ids, MatrixView<const Sum> weights,
                    MatrixView<const Sum> grad_weights, MatrixView<Sum> grad_logits);

/// Softmax of a row of logits, in place.
template <class Sum>
void softmax(const ElementwiseKernels<Sum>& kernels, std::span<Sum> row);

/// Writes the numbers of the `ids.size()` largest values, largest first; of equal ones the lower number comes first.
template <class Sum>
void choose_largest(std::span<const Sum> values, std::span<std::int32_t> ids);

}  // namespace moesaic::ops
