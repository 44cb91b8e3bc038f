// The attention of a decoder layer: projections, norms of the heads, rotary embedding, causal attention, output.
#pragma once

#include "kernels/gemm.hpp"
#include "model/architecture.hpp"
#include "model/attention.hpp"
#include "model/lora_linear.hpp"
#include "model/rope.hpp"
#include "model/tape.hpp"
#include "model/token_batch.hpp"
#include "model/weights.hpp"

#include <vector>

namespace moesaic::model {

/// Work buffers shared by the attention of all layers.
template <class T>
struct AttentionScratch {
    using A = accumulator_t<T>;
    Matrix<A> query;          // [T, heads * D] gradient
    Matrix<A> key;            // [T, kv_heads * D] gradient
    Matrix<A> value;          // [T, kv_heads * D]
    Matrix<A> raw_query;      // [T, heads * D]
    Matrix<A> raw_key;        // [T, kv_heads * D]
    Matrix<A> attended;       // [T, heads * D]
    Matrix<T> grad_output;    // [T, H]
    Matrix<T> grad_attended;  // [T, heads * D]
    Matrix<T> grad_query;     // [T, heads * D]
    Matrix<T> grad_key;       // [T, kv_heads * D]
    Matrix<T> grad_value;     // [T, kv_heads * D]
};

template <class T>
class AttentionBlock {
public:
    using A = accumulator_t<T>;

    /// Declares the factors of adapted projections in the bucket of `lora`.
    AttentionBlock(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora);
    void load(const WeightSource<T>& source);
    [[nodiscard]] bool is_trainable() const noexcept;
    /// To be called after the factors changed.
    void update_lora();

    /// output [T, H] = attention(tape.attention_input) for the sequences of `batch`; fills the attention part of
    /// `tape`.
    void forward(const TokenBatch& batch, const RotaryTable<A>& rotary, LayerTape<T>& tape, MatrixView<A> output,
                 AttentionScratch<T>& scratch) const;
    /// Accumulates LoRA gradients and, unless it is empty, overwrites grad_input [T, H], the gradient of
    /// tape.attention_input.
    void backward(const TokenBatch& batch, const RotaryTable<A>& rotary, const LayerTape<T>& tape,
                  MatrixView<const A> grad_output, MatrixView<A> grad_input, AttentionScratch<T>& scratch) const;

private:
    using HeadNorm = std::vector<A>;  // [D]

    /// Rounds projected heads [T, n * D] to `raw`; `out` becomes their norm by head, rotated. Overwrites `heads`.
    void normalise_and_rotate(const HeadNorm& norm, std::span<const index_t> positions, const RotaryTable<A>& rotary,
                              Matrix<A>& heads, Matrix<T>& raw, std::vector<A>& rstd, Matrix<T>& out) const;
    /// From the gradient of the rotated heads [T, n * D] that of the projected ones, `out`. Overwrites `grad_heads` and
    /// `wide_raw`.
    void normalise_and_rotate_backward(const HeadNorm& norm, std::span<const index_t> positions,
                                       const RotaryTable<A>& rotary, const Matrix<T>& raw, const std::vector<A>& rstd,
                                       Matrix<A>& grad_heads, Matrix<A>& wide_raw, Matrix<T>& out) const;

    const kernels::KernelSet& kernels_;
    AttentionShape shape_;
    double norm_epsilon_;
    std::string prefix_;
    LoraLinear<T> query_projection_;   // to [heads * D]
    LoraLinear<T> key_projection_;     // to [kv_heads * D]
    LoraLinear<T> value_projection_;   // to [kv_heads * D]
    LoraLinear<T> output_projection_;  // from [heads * D]
    HeadNorm query_norm_;
    HeadNorm key_norm_;
};

}  // namespace moesaic::model
