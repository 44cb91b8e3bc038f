// What the decoder keeps of a forward pass for its backward pass.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "model/feed_forward/token_exchange.hpp"

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

    Matrix<A> input;               // [T, H] residual stream before the layer
    std::vector<A> input_rstd;     // [T]
    Matrix<T> attention_input;     // [T, H] after the first norm
    ops::HeadTape<T> query_heads;  // of what is normalised: heads, or a compressed vector
    ops::HeadTape<T> key_heads;
    ops::HeadTape<T> value_heads;
    Matrix<T> query_latent;  // [T, R] compressed and normalised, of latent attention
    Matrix<T> kv_latent;     // [T, R]
    Matrix<T> query;         // [T, heads * D] normalised and rotated
    Matrix<T> key;           // [T, kv_heads * D]
    Matrix<T> value;         // [T, kv_heads * Dv]
    Matrix<T> attended;      // [T, heads * Dv]
    Matrix<A> log_sum;       // [T, heads]

    Matrix<A> middle;                 // [T, H] residual stream between attention and feed-forward
    std::vector<A> middle_rstd;       // [T]
    Matrix<T> feed_input;             // [T, H] after the second norm
    GatedMlpTape<T> mlp;              // of a dense layer or a shared expert
    Matrix<A> shared_weights;         // [T, 1] of a gated shared expert
    Matrix<A> scores;                 // [T, E] of a MoE layer's router
    Matrix<A> probabilities;          // [T, E] softmax of its logits, if wanted and if scores are not that
    Matrix<std::int32_t> expert_ids;  // [T, K]
    Matrix<A> expert_weights;         // [T, K]
    std::vector<RowRoutes> chunks;    // routes of the rows to these experts
};

template <class T>
struct Tape {
    std::vector<LayerTape<T>> layers;
    Matrix<accumulator_t<T>> output;            // [T, H] residual stream after the last layer
    std::vector<accumulator_t<T>> output_rstd;  // [T]
    Matrix<T> normed;                           // [T, H] what the head sees
};

}  // namespace moesaic::model
