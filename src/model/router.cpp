#include "model/router.hpp"

#include <algorithm>
#include <vector>

namespace moesaic::model {
namespace {

template <class A>
void softmax(const ElementwiseKernels<A>& kernels, std::span<A> row) {
    const auto size = static_cast<index_t>(row.size());
    const A sum = kernels.exp(size, row.data(), A(1), kernels.largest(size, row.data()), A(1), row.data());
    for (A& value : row) {
        value /= sum;
    }
}

/// Writes the numbers of the `ids.size()` largest probabilities, largest first.
template <class A>
void choose_largest(std::span<const A> probabilities, std::span<std::int32_t> ids) {
    std::size_t chosen = 0;
    for (std::size_t e = 0; e < probabilities.size(); ++e) {
        if (chosen == ids.size() && !(probabilities[e] > probabilities[static_cast<std::size_t>(ids[chosen - 1])])) {
            continue;
        }
        std::size_t place = chosen < ids.size() ? chosen++ : chosen - 1;
        for (; place > 0 && probabilities[e] > probabilities[static_cast<std::size_t>(ids[place - 1])]; --place) {
            ids[place] = ids[place - 1];
        }
        ids[place] = static_cast<std::int32_t>(e);
    }
}

}  // namespace

template <class A>
void route_forward(const ElementwiseKernels<A>& kernels, MatrixView<A> scores, bool normalize,
                   MatrixView<std::int32_t> expert_ids, MatrixView<A> weights) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < scores.rows(); ++row) {
        softmax<A>(kernels, scores.row(row));
        choose_largest<A>(scores.row(row), expert_ids.row(row));
        A sum = 0;
        for (index_t k = 0; k < weights.cols(); ++k) {
            weights(row, k) = scores(row, expert_ids(row, k));
            sum += weights(row, k);
        }
        if (normalize) {
            for (A& weight : weights.row(row)) {
                weight /= sum;
            }
        }
    }
}

template <class A>
void route_backward(MatrixView<const A> probabilities, bool normalize, MatrixView<const std::int32_t> expert_ids,
                    MatrixView<const A> weights, MatrixView<const A> grad_weights, MatrixView<A> grad_logits) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < probabilities.rows(); ++row) {
        // weights = p / s with s the sum of the chosen p: dp_k = (dw_k - <dw, w>) / s; without normalisation dp = dw.
        A sum = 1;
        A projection = 0;
        if (normalize) {
            sum = 0;
            for (index_t k = 0; k < weights.cols(); ++k) {
                sum += probabilities(row, expert_ids(row, k));
                projection += grad_weights(row, k) * weights(row, k);
            }
        }
        // Softmax: dl_e = p_e (dp_e - <dp, p>), where dp is zero for experts that were not chosen.
        A mean = 0;
        std::fill_n(grad_logits[row], grad_logits.cols(), A(0));
        for (index_t k = 0; k < weights.cols(); ++k) {
            const index_t expert = expert_ids(row, k);
            const A grad = (grad_weights(row, k) - projection) / sum;
            grad_logits(row, expert) = grad;
            mean += grad * probabilities(row, expert);
        }
        for (index_t e = 0; e < probabilities.cols(); ++e) {
            grad_logits(row, e) = probabilities(row, e) * (grad_logits(row, e) - mean);
        }
    }
}

#define MOESAIC_INSTANTIATE(A)                                                                                      \
    template void route_forward<A>(const ElementwiseKernels<A>&, MatrixView<A>, bool, MatrixView<std::int32_t>,     \
                                   MatrixView<A>);                                                                  \
    template void route_backward<A>(MatrixView<const A>, bool, MatrixView<const std::int32_t>, MatrixView<const A>, \
                                    MatrixView<const A>, MatrixView<A>);
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
