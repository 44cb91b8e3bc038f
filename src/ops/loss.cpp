#include "ops/loss.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::ops {
namespace {

using core::bf16;

/// Log-softmax of one row at the label; with `grad` also scale * (softmax - onehot(label)).
template <class Scalar>
TargetResult evaluate(const kernels::ElementwiseKernels<Scalar>& kernels, std::span<const accumulator_t<Scalar>> logits,
                      std::int32_t label, double scale, Scalar* grad) {
    using Sum = accumulator_t<Scalar>;
    const auto size = static_cast<index_t>(logits.size());
    const Sum largest = kernels.largest(size, logits.data());
    const double sum = kernels.sum_of_exp(size, logits.data(), largest);
    const Sum at_label = logits[static_cast<std::size_t>(label)];
    if (grad != nullptr) {
        kernels.exp(size, logits.data(), Sum(1), largest, static_cast<Sum>(scale / sum), grad);
        // 1 - p loses its digits where p is rounded first.
        const double probability = static_cast<double>(std::exp(at_label - largest)) / sum;
        grad[label] = static_cast<Scalar>(static_cast<Sum>(scale * (probability - 1.0)));
    }
    return {static_cast<double>(at_label - largest) - std::log(sum),
            at_label == largest && std::isfinite(largest) &&
                std::find(logits.begin(), logits.end(), largest) - logits.begin() == label};
}

}  // namespace

std::vector<BufferPlan> plan_loss(index_t hidden, index_t vocabulary) {
    std::vector<BufferPlan> buffers = {{"loss.hidden", Rows::targets, Element::scalar, hidden},
                                       {"loss.logits", Rows::targets, Element::sum, vocabulary},
                                       {"loss.grad_logits", Rows::targets, Element::scalar, vocabulary, true},
                                       {"loss.grad_rows", Rows::targets, Element::sum, hidden, true},
                                       {"loss.operand", Rows::targets, Element::packed, padded(hidden)},
                                       {"loss.operand", Rows::targets, Element::packed, padded(vocabulary), true}};
    plan_frozen_threads("loss.threads", vocabulary, hidden, buffers);
    return buffers;
}

template <class Scalar>
std::vector<TargetResult> cross_entropy(const kernels::KernelSet& kernels, MatrixView<const Scalar> hidden,
                                        const PackedWeights& head, std::span<const Target> targets, double scale,
                                        MatrixView<accumulator_t<Scalar>> grad_hidden, LossScratch<Scalar>& scratch) {
    using Sum = accumulator_t<Scalar>;
    const core::trace::Scope scope(core::scopes::loss);
    const bool with_gradient = !grad_hidden.empty();
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_hidden.rows(); ++row) {
        std::fill_n(grad_hidden[row], grad_hidden.cols(), Sum(0));
    }
    std::vector<TargetResult> results(targets.size());
    const auto multiply_head = [&](Direction direction, MatrixView<const Scalar> x, MatrixView<Sum> y) {
        const FrozenProduct<Scalar> product = {head, direction, x, y, false, {}};
        multiply<Scalar>(kernels, {&product, 1}, scratch.frozen);
    };
    for (index_t begin = 0; begin < static_cast<index_t>(targets.size()); begin += targets_per_block) {
        const index_t rows = std::min(targets_per_block, static_cast<index_t>(targets.size()) - begin);
        const auto block_targets = targets.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(rows));
        scratch.hidden.resize(rows, hidden.cols());
        scratch.logits.resize(rows, head.rows());
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows; ++i) {
            std::copy_n(hidden[block_targets[static_cast<std::size_t>(i)].row], hidden.cols(),
                        scratch.hidden.view()[i]);
        }
        multiply_head(Direction::forward, scratch.hidden, scratch.logits);
        if (with_gradient) {
            scratch.grad_logits.resize(rows, head.rows());
        }
        const MatrixView<const Sum> logits = scratch.logits;
        const MatrixView<Scalar> grad_logits = scratch.grad_logits;
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows; ++i) {
            results[static_cast<std::size_t>(begin + i)] = evaluate<Scalar>(
                kernels.elementwise<Scalar>(), logits.row(i), block_targets[static_cast<std::size_t>(i)].label, scale,
                with_gradient ? grad_logits[i] : nullptr);
        }
        if (with_gradient) {
            scratch.grad_rows.resize(rows, hidden.cols());
            multiply_head(Direction::backward, scratch.grad_logits, scratch.grad_rows);
#pragma omp parallel for schedule(static)
            for (index_t i = 0; i < rows; ++i) {  // a row is a target at most once
                std::copy_n(scratch.grad_rows.view()[i], hidden.cols(),
                            grad_hidden[block_targets[static_cast<std::size_t>(i)].row]);
            }
        }
    }
    return results;
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                 \
    template std::vector<TargetResult> cross_entropy<Scalar>(const kernels::KernelSet&, MatrixView<const Scalar>,   \
                                                             const PackedWeights&, std::span<const Target>, double, \
                                                             MatrixView<accumulator_t<Scalar>>, LossScratch<Scalar>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
