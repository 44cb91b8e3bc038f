// Causal grouped-query attention over packed sequences, forward and backward, memory linear in the sequence length.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"

#include <span>

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
    double scale = 1;        ///< positive factor on the scores, usually 1 / sqrt(D)
    index_t window = 0;      ///< a query sees this many tokens, itself included; 0: all up to itself

    /// The first key that a query sees; both are counted from the start of their sequence.
    [[nodiscard]] index_t first_key(index_t query) const {
        return window > 0 && query >= window ? query - window + 1 : 0;
    }
};

/// What attention works on. Sequences lie one after the other in the rows: sequence s has rows
/// [offsets[s], offsets[s + 1]).
template <class T>
struct AttentionInputs {
    MatrixView<const T> query;  // [T, heads * D]
    MatrixView<const T> key;    // [T, kv_heads * D]
    MatrixView<const T> value;  // [T, kv_heads * Dv]
    std::span<const index_t> offsets;
};

/// output [T, heads * Dv]; log_sum [T, heads] is the logarithm of each softmax's denominator, kept for backward. Where
/// T is narrower, products have the operands in two parts of type T (see LoraLinear).
template <class T>
void attention_forward(const kernels::KernelSet& kernels, const AttentionShape& shape,
                       const AttentionInputs<accumulator_t<T>>& in, MatrixView<accumulator_t<T>> output,
                       MatrixView<accumulator_t<T>> log_sum);

/// Given inputs and output of forward, rounded to T. Overwrites grad_query [T, heads * D], grad_key [T, kv_heads * D]
/// and grad_value [T, kv_heads * Dv]. Scores are recomputed in blocks.
template <class T>
void attention_backward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<T>& in,
                        MatrixView<const T> output, MatrixView<const accumulator_t<T>> log_sum,
                        MatrixView<const T> grad_output, MatrixView<accumulator_t<T>> grad_query,
                        MatrixView<accumulator_t<T>> grad_key, MatrixView<accumulator_t<T>> grad_value);

}  // namespace moesaic::ops
