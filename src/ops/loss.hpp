// Language model head and cross-entropy in one pass over blocks of targets. Logits exist in blocks of 32 x 32 alone,
// and of the softmax there are only its numerators, as the backward product reads them.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/frozen_product.hpp"
#include "ops/token_batch.hpp"

#include <span>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// What the model says about one target.
struct TargetResult {
    double log_probability;
    bool is_most_likely;  ///< the first of the tokens with the largest logit, as argmax in PyTorch
};

/// Targets whose numerators are held at a time: each block of them reads the head once forward, and backward at least
/// once. With 2^17 tokens and operands in BF16 these are 256 MiB.
inline constexpr index_t targets_per_block = 1024;

/// Work buffers of `cross_entropy`. Ranges are those of `features_of_range` tokens of the vocabulary.
template <class Scalar>
struct LossScratch {
    using Sum = accumulator_t<Scalar>;

    Matrix<Scalar> hidden;          // [block, H]
    Matrix<Sum> first_logits;       // [block, columns_of_reference]
    Matrix<Sum> references;         // [1, block]
    Matrix<Sum> label_logits;       // [1, block]
    Matrix<Sum> largest_before;     // [1, block]
    Matrix<Sum> sums;               // [ranges, block]
    Matrix<Sum> largest;            // [ranges, block]
    PackedRows<Scalar> numerators;  // [block, V]
    Matrix<Sum> grad_rows;          // [block, H]
    FrozenScratch<Scalar> frozen;
};

[[nodiscard]] std::vector<BufferPlan> plan_loss(index_t hidden, index_t vocabulary);

/// Log-probability of every target given hidden states [T, H] after the last norm and the head [V, H]. If grad_hidden
/// [T, H] is not empty, it becomes the gradient of scale * sum of negative log-probabilities. Results do not depend on
/// the number of threads.
template <class Scalar>
[[nodiscard]] std::vector<TargetResult> cross_entropy(const kernels::KernelSet& kernels,
                                                      MatrixView<const Scalar> hidden, const PackedWeights& head,
                                                      std::span<const Target> targets, double scale,
                                                      MatrixView<accumulator_t<Scalar>> grad_hidden,
                                                      LossScratch<Scalar>& scratch);

}  // namespace moesaic::ops
