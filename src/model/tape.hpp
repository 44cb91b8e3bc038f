// What the decoder keeps of a forward pass for its backward pass.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <cstdint>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::Matrix;

/// What a gated feed-forward network keeps.
template <class T>
struct GatedMlpTape {
    Matrix<T> gate;  // [T, I]
    Matrix<T> up;    // [T, I]
};

/// Activations of one layer. T: tokens of this rank.
template <class T>
struct LayerTape {
    using A = accumulator_t<T>;

    Matrix<A> input;            // [T, H] residual stream before the layer
    std::vector<A> input_rstd;  // [T]
    Matrix<T> attention_input;  // [T, H] after the first norm
    Matrix<T> raw_query;        // [T, heads * D] before the norm of each head
    Matrix<T> raw_key;          // [T, kv_heads * D]
    std::vector<A> query_rstd;  // [T * heads]
    std::vector<A> key_rstd;    // [T * kv_heads]
    Matrix<T> query;            // [T, heads * D] normalised and rotated
    Matrix<T> key;              // [T, kv_heads * D]
    Matrix<T> value;            // [T, kv_heads * D]
    Matrix<T> attended;         // [T, heads * D]
    Matrix<A> log_sum;          // [T, heads]

    Matrix<A> middle;                 // [T, H] residual stream between attention and feed-forward
    std::vector<A> middle_rstd;       // [T]
    Matrix<T> feed_input;             // [T, H] after the second norm
    GatedMlpTape<T> dense;            // of a dense layer
    Matrix<A> probabilities;          // [T, E] of a MoE layer
    Matrix<std::int32_t> expert_ids;  // [T, K]
    Matrix<A> expert_weights;         // [T, K]
};

template <class T>
struct Tape {
    std::vector<LayerTape<T>> layers;
    Matrix<accumulator_t<T>> output;            // [T, H] residual stream after the last layer
    std::vector<accumulator_t<T>> output_rstd;  // [T]
    Matrix<T> normed;                           // [T, H] what the head sees
};

}  // namespace moesaic::model
