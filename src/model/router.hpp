// The frozen router: softmax over experts, the K largest, their weights; and the exact gradient through it.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"

#include <cstdint>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;
using kernels::ElementwiseKernels;

/// From logits to the chosen experts. `scores` [T, E] holds logits on entry and softmax probabilities afterwards;
/// expert_ids [T, K] in order of falling probability (of equal ones the lower number first); weights [T, K] are the
/// probabilities of those, divided by their sum if `normalize`.
template <class A>
void route_forward(const ElementwiseKernels<A>& kernels, MatrixView<A> scores, bool normalize,
                   MatrixView<std::int32_t> expert_ids, MatrixView<A> weights);

/// grad_logits [T, E] from grad_weights = dL/dweights [T, K]. The choice of experts is constant.
template <class A>
void route_backward(MatrixView<const A> probabilities, bool normalize, MatrixView<const std::int32_t> expert_ids,
                    MatrixView<const A> weights, MatrixView<const A> grad_weights, MatrixView<A> grad_logits);

}  // namespace moesaic::model
