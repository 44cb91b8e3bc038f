#include "ops/loss.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace moesaic::ops {
namespace {

using core::bf16;

/// The largest of the first logits of a row is its reference: exponentials are those of logits less the reference.
constexpr index_t columns_of_reference = 256;

/// By how much a logit may exceed the reference of its row. exp(50) is 5e21, times 2^17 tokens and large weights it is
/// still far from the largest number of FP32 and BF16.
constexpr double largest_excess = 50;

constexpr index_t ranges_of(index_t vocabulary) {
    return (vocabulary + features_of_range - 1) / features_of_range;
}

/// A block of targets. With t = exp(logit - reference) and `others` the sum of t over all tokens but the label, a row
/// of its gradient is scale / (t of label + others) * (sum over the others of t * their row of the head - others * the
/// row of the label): no digits are lost where the label has a probability near 1.
template <class Scalar>
class TargetBlock {
public:
    using Sum = accumulator_t<Scalar>;

    TargetBlock(const kernels::KernelSet& kernels, const PackedWeights& head, std::span<const Target> targets,
                bool with_gradient, LossScratch<Scalar>& scratch)
        : kernels_(kernels),
          head_(head),
          targets_(targets),
          with_gradient_(with_gradient),
          rows_(static_cast<index_t>(targets.size())),
          scratch_(scratch),
          of_rows_(targets.size()) {
        const index_t ranges = ranges_of(head.rows());
        scratch.hidden.resize(rows_, head.cols());
        scratch.first_logits.resize(rows_, std::min(head.rows(), columns_of_reference));
        scratch.references.resize(1, rows_);
        scratch.label_logits.resize(1, rows_);
        scratch.largest_before.resize(1, rows_);
        scratch.sums.resize(ranges, rows_);
        scratch.largest.resize(ranges, rows_);
        if (with_gradient) {
            scratch.numerators.resize(kernels, rows_, head.rows());
            scratch.grad_rows.resize(rows_, head.cols());
        }
    }

    void forward(MatrixView<const Scalar> hidden) {
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows_; ++i) {
            std::copy_n(hidden[target(i).row], hidden.cols(), scratch_.hidden.view()[i]);
        }
        multiply_by_head({head_, Direction::forward, scratch_.hidden, scratch_.first_logits, false, {}});
        for (index_t i = 0; i < rows_; ++i) {
            const auto logits = scratch_.first_logits.view().row(i);
            scratch_.references.data()[i] =
                kernels_.elementwise<Scalar>().largest(static_cast<index_t>(logits.size()), logits.data());
        }
        exponentiate();
        if (raise_references()) {
            exponentiate();
        }
    }

    [[nodiscard]] TargetResult result(index_t i) const {
        const OfRow& row = of_rows_[static_cast<std::size_t>(i)];
        const Sum label = scratch_.label_logits.data()[i];
        return {distance(i) - std::log(row.sum),
                label >= row.largest && label > row.largest_before && std::isfinite(label)};
    }

    void backward(double scale, MatrixView<Sum> grad_hidden) {
        multiply_by_head({head_, Direction::backward, {}, scratch_.grad_rows, false, {}, {}, &scratch_.numerators});
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows_; ++i) {  // a row is a target at most once
            const OfRow& row = of_rows_[static_cast<std::size_t>(i)];
            const auto factor = static_cast<Sum>(scale / row.sum);
            const auto of_label = static_cast<Sum>(-scale * (row.others / row.sum));
            const Sum* of_others = scratch_.grad_rows.view()[i];
            Sum* out = grad_hidden[target(i).row];
            head_.widen_row(kernels_, target(i).label, out);
            for (index_t k = 0; k < grad_hidden.cols(); ++k) {
                out[k] = factor * of_others[k] + of_label * out[k];
            }
        }
    }

private:
    struct OfRow {
        double others = 0;
        double sum = 0;               ///< over all tokens
        Sum largest = lowest;         ///< logit of the others
        Sum largest_before = lowest;  ///< the same of those before the label
    };
    static constexpr Sum lowest = -std::numeric_limits<Sum>::infinity();

    [[nodiscard]] const Target& target(index_t i) const {
        return targets_[static_cast<std::size_t>(i)];
    }
    /// From the reference to the logit of the label.
    [[nodiscard]] double distance(index_t i) const {
        return static_cast<double>(scratch_.label_logits.data()[i]) -
               static_cast<double>(scratch_.references.data()[i]);
    }
    void multiply_by_head(const FrozenProduct<Scalar>& product) {
        multiply<Scalar>(kernels_, {&product, 1}, scratch_.frozen);
    }

    /// The product with the whole head, of which sums, largest logits and numerators are kept.
    void exponentiate() {
        scratch_.sums.fill(Sum(0));
        scratch_.largest.fill(lowest);
        multiply_by_head({head_,
                          Direction::forward,
                          scratch_.hidden,
                          {},
                          false,
                          {},
                          [this](index_t token, index_t row, MatrixView<Sum> logits) { take(token, row, logits); }});
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows_; ++i) {
            OfRow row = {.largest_before = scratch_.largest_before.data()[i]};
            for (index_t range = 0; range < scratch_.sums.rows(); ++range) {
                const Sum largest = scratch_.largest.view()(range, i);
                row.others += static_cast<double>(scratch_.sums.view()(range, i));
                row.largest = std::max(row.largest, largest);
                if (range < target(i).label / features_of_range) {
                    row.largest_before = std::max(row.largest_before, largest);
                }
            }
            row.sum = row.others + std::exp(distance(i));
            of_rows_[static_cast<std::size_t>(i)] = row;
        }
    }

    /// logits: [tokens of the vocabulary, rows], from `first_token` and `first_row` on
    void take(index_t first_token, index_t first_row, MatrixView<Sum> logits) {
        Sum* largest = scratch_.largest.view()[first_token / features_of_range] + first_row;
        for (index_t i = 0; i < logits.cols(); ++i) {
            const index_t label = target(first_row + i).label - first_token;
            if (label >= 0 && label < logits.rows()) {
                take_label(first_row + i, logits.columns(i, 1), label, largest[i]);
            }
        }
        std::array<Scalar, block_elements> numerators;
        kernels_.elementwise<Scalar>().exp_columns(
            logits.rows(), logits.cols(), logits.data(), logits.stride(), scratch_.references.data() + first_row,
            numerators.data(), kernel_block, scratch_.sums.view()[first_token / features_of_range] + first_row,
            largest);
        if (with_gradient_) {
            scratch_.numerators.store(kernels_, first_token, first_row,
                                      {numerators.data(), logits.rows(), logits.cols(), kernel_block});
        }
    }
    /// Keeps the label's logit, and hides it from what is done with the others.
    void take_label(index_t i, MatrixView<Sum> logits, index_t label, Sum largest_before) {
        for (index_t token = 0; token < label; ++token) {
            largest_before = std::max(largest_before, logits(token, 0));
        }
        scratch_.largest_before.data()[i] = largest_before;
        scratch_.label_logits.data()[i] = std::exchange(logits(label, 0), lowest);
    }

    /// References become the true maxima of rows that have logits too far above them; false if none has.
    [[nodiscard]] bool raise_references() {
        bool raised = false;
        for (index_t i = 0; i < rows_; ++i) {
            const Sum largest =
                std::max(of_rows_[static_cast<std::size_t>(i)].largest, scratch_.label_logits.data()[i]);
            Sum& reference = scratch_.references.data()[i];
            if (largest > reference + static_cast<Sum>(largest_excess)) {
                reference = largest;
                raised = true;
            }
        }
        return raised;
    }

    const kernels::KernelSet& kernels_;
    const PackedWeights& head_;
    std::span<const Target> targets_;
    bool with_gradient_;
    index_t rows_;
    LossScratch<Scalar>& scratch_;
    std::vector<OfRow> of_rows_;
};

}  // namespace

std::vector<BufferPlan> plan_loss(index_t hidden, index_t vocabulary) {
    std::vector<BufferPlan> buffers = {
        {"loss.hidden", Rows::targets, Element::scalar, hidden},
        {"loss.first_logits", Rows::targets, Element::sum, std::min(vocabulary, columns_of_reference)},
        {"loss.of_targets", Rows::targets, Element::sum, 3 + 2 * ranges_of(vocabulary)},
        {"loss.numerators", Rows::targets, Element::packed, padded(vocabulary), true},
        {"loss.grad_rows", Rows::targets, Element::sum, hidden, true},
        {"loss.operand", Rows::targets, Element::packed, padded(hidden)}};
    plan_frozen_threads("loss.threads", vocabulary, hidden, buffers);
    return buffers;
}

template <class Scalar>
std::vector<TargetResult> cross_entropy(const kernels::KernelSet& kernels, MatrixView<const Scalar> hidden,
                                        const PackedWeights& head, std::span<const Target> targets, double scale,
                                        MatrixView<accumulator_t<Scalar>> grad_hidden, LossScratch<Scalar>& scratch) {
    using Sum = accumulator_t<Scalar>;
    const core::trace::Scope scope(core::scopes::loss);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_hidden.rows(); ++row) {
        std::fill_n(grad_hidden[row], grad_hidden.cols(), Sum(0));
    }
    std::vector<TargetResult> results;
    for (std::size_t begin = 0; begin < targets.size(); begin += targets_per_block) {
        const std::size_t rows = std::min<std::size_t>(targets_per_block, targets.size() - begin);
        TargetBlock<Scalar> block(kernels, head, targets.subspan(begin, rows), !grad_hidden.empty(), scratch);
        block.forward(hidden);
        for (std::size_t i = 0; i < rows; ++i) {
            results.push_back(block.result(static_cast<index_t>(i)));
        }
        if (!grad_hidden.empty()) {
            block.backward(scale, grad_hidden);
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
