// Causal grouped-query attention over packed sequences, forward and backward, memory linear in the sequence length.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/elementwise.hpp"

#include <span>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;

/// Query head h attends with key and value head h / (heads / kv_heads).
struct AttentionShape {
    index_t heads = 0;
    index_t kv_heads = 0;
    index_t head_size = 0;   ///< D, of queries and keys
    index_t value_size = 0;  ///< Dv, of values
    double scale = 1;        ///< of the scores, positive, usually 1 / sqrt(D)
    index_t window = 0;      ///< a query sees this many tokens, itself included; 0: all up to itself

    /// The first key that a query sees; both are counted from the start of their sequence.
    [[nodiscard]] index_t first_key(index_t query) const {
        return window > 0 && query >= window ? query - window + 1 : 0;
    }
};

/// What attention works on. Sequences lie one after the other in the rows: sequence s has rows
/// [offsets[s], offsets[s + 1]).
template <class Scalar>
struct AttentionInputs {
    RoundedRows<Scalar> query;  // [T, heads * D]
    RoundedRows<Scalar> key;    // [T, kv_heads * D]
    RoundedRows<Scalar> value;  // [T, kv_heads * Dv]
    std::span<const index_t> offsets;
};

/// output [T, heads * Dv], and the same before it is rounded unless `exact_output` is empty; log_sum [T, heads] is the
/// logarithm of each softmax's denominator, kept for backward. Queries, keys, values and probabilities are multiplied
/// in the parts that the kernels are to have.
template <class Scalar>
void attention_forward(const kernels::KernelSet& kernels, const AttentionShape& shape,
                       const AttentionInputs<Scalar>& in, MatrixView<Scalar> output,
                       MatrixView<accumulator_t<Scalar>> exact_output, MatrixView<accumulator_t<Scalar>> log_sum);

/// Given inputs and output of forward, rounded to Scalar. Overwrites grad_query [T, heads * D], grad_key [T, kv_heads *
/// D] and grad_value [T, kv_heads * Dv]. Scores are recomputed in blocks.
template <class Scalar>
void attention_backward(const kernels::KernelSet& kernels, const AttentionShape& shape,
                        const AttentionInputs<Scalar>& in, MatrixView<const Scalar> output,
                        MatrixView<const accumulator_t<Scalar>> log_sum, MatrixView<const Scalar> grad_output,
                        MatrixView<accumulator_t<Scalar>> grad_query, MatrixView<accumulator_t<Scalar>> grad_key,
                        MatrixView<accumulator_t<Scalar>> grad_value);

/// What either holds while it runs.
[[nodiscard]] std::vector<BufferPlan> plan_attention_forward(const AttentionShape& shape);
[[nodiscard]] std::vector<BufferPlan> plan_attention_backward(const AttentionShape& shape);

}  // namespace moesaic::ops
