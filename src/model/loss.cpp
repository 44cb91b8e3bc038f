#include "model/loss.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::model {
namespace {

using core::bf16;

/// Logits that are held at a time: 2^24 of four bytes are 64 MiB.
constexpr index_t logits_limit = index_t{1} << 24;
constexpr index_t largest_block = 512;

/// Log-softmax of one row at the label; with `grad` also scale * (softmax - onehot(label)).
template <class T>
TargetResult evaluate(std::span<const accumulator_t<T>> logits, std::int32_t label, double scale, T* grad) {
    using A = accumulator_t<T>;
    const auto most_likely = std::max_element(logits.begin(), logits.end());
    const A largest = *most_likely;
    double sum = 0;
    for (const A logit : logits) {
        sum += static_cast<double>(std::exp(logit - largest));
    }
    const A at_label = logits[static_cast<std::size_t>(label)];
    if (grad != nullptr) {
        const A factor = static_cast<A>(scale / sum);
        for (std::size_t v = 0; v < logits.size(); ++v) {
            grad[v] = static_cast<T>(factor * std::exp(logits[v] - largest));
        }
        // 1 - p loses its digits where p is rounded first.
        const double probability = static_cast<double>(std::exp(at_label - largest)) / sum;
        grad[label] = static_cast<T>(static_cast<A>(scale * (probability - 1.0)));
    }
    return {static_cast<double>(at_label - largest) - std::log(sum),
            most_likely - logits.begin() == label && std::isfinite(largest)};
}

}  // namespace

template <class T>
std::vector<TargetResult> cross_entropy(const kernels::KernelSet& kernels, MatrixView<const T> hidden,
                                        MatrixView<const T> head, std::span<const Target> targets, double scale,
                                        MatrixView<accumulator_t<T>> grad_hidden, LossScratch<T>& scratch) {
    using A = accumulator_t<T>;
    const core::trace::Scope scope("loss");
    const bool with_gradient = !grad_hidden.empty();
    for (index_t row = 0; row < grad_hidden.rows(); ++row) {
        std::fill_n(grad_hidden[row], grad_hidden.cols(), A(0));
    }
    std::vector<TargetResult> results(targets.size());
    const index_t block = std::clamp(logits_limit / head.rows(), index_t{1}, largest_block);
    for (index_t begin = 0; begin < static_cast<index_t>(targets.size()); begin += block) {
        const index_t rows = std::min(block, static_cast<index_t>(targets.size()) - begin);
        const auto block_targets = targets.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(rows));
        scratch.hidden.resize(rows, hidden.cols());
        scratch.logits.resize(rows, head.rows());
        for (index_t i = 0; i < rows; ++i) {
            std::copy_n(hidden[block_targets[static_cast<std::size_t>(i)].row], hidden.cols(),
                        scratch.hidden.view()[i]);
        }
        kernels.run(kernels::product<T>(scratch.hidden, false, head, true, scratch.logits));
        if (with_gradient) {
            scratch.grad_logits.resize(rows, head.rows());
        }
        const MatrixView<const A> logits = scratch.logits;
        const MatrixView<T> grad_logits = scratch.grad_logits;
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows; ++i) {
            results[static_cast<std::size_t>(begin + i)] =
                evaluate<T>(logits.row(i), block_targets[static_cast<std::size_t>(i)].label, scale,
                            with_gradient ? grad_logits[i] : nullptr);
        }
        if (with_gradient) {
            scratch.grad_rows.resize(rows, hidden.cols());
            kernels.run(kernels::product<T>(scratch.grad_logits, false, head, false, scratch.grad_rows));
            for (index_t i = 0; i < rows; ++i) {  // a row is a target at most once
                std::copy_n(scratch.grad_rows.view()[i], hidden.cols(),
                            grad_hidden[block_targets[static_cast<std::size_t>(i)].row]);
            }
        }
    }
    return results;
}

#define MOESAIC_INSTANTIATE(T)                                                                                \
    template std::vector<TargetResult> cross_entropy<T>(const kernels::KernelSet&, MatrixView<const T>,       \
                                                        MatrixView<const T>, std::span<const Target>, double, \
                                                        MatrixView<accumulator_t<T>>, LossScratch<T>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
