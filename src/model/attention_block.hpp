// The attention of a decoder layer: an interface, and the two kinds that there are.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/architecture.hpp"
#include "model/attention.hpp"
#include "model/head_transform.hpp"
#include "model/lora_linear.hpp"
#include "model/tape.hpp"
#include "model/token_batch.hpp"
#include "model/weights.hpp"

#include <memory>
#include <vector>

namespace moesaic::model {

/// Work buffers shared by the attention of all layers. Sizes are those of the kind at hand.
template <class T>
struct AttentionScratch {
    using A = accumulator_t<T>;
    Matrix<A> query;          // [T, heads * D], and its gradient
    Matrix<A> key;            // [T, kv_heads * D] the same
    Matrix<A> value;          // [T, kv_heads * Dv] the same
    Matrix<A> attended;       // [T, heads * Dv] the same
    Matrix<A> latent;         // [T, R] compressed queries, or keys and values
    Matrix<A> expanded;       // [T, heads * (D - Dr + Dv)]
    Matrix<A> work;           // of HeadTransform
    Matrix<T> grad_output;    // [T, H]
    Matrix<T> grad_attended;  // [T, heads * Dv]
    Matrix<T> grad_query;     // [T, heads * D]
    Matrix<T> grad_key;       // [T, kv_heads * D]
    Matrix<T> grad_value;     // [T, kv_heads * Dv]
    Matrix<T> grad_latent;    // [T, R]
    Matrix<T> grad_expanded;  // [T, heads * (D - Dr + Dv)]
};

template <class T>
class AttentionBlock {
public:
    using A = accumulator_t<T>;

    virtual ~AttentionBlock() = default;
    AttentionBlock(const AttentionBlock&) = delete;
    AttentionBlock& operator=(const AttentionBlock&) = delete;

    void load(const WeightSource<T>& source);
    [[nodiscard]] bool is_trainable();
    /// To be called after the factors changed.
    void update_lora();

    /// output [T, H] = attention(input) for the sequences of `batch`; fills the attention part of `tape`. `input` is
    /// tape.attention_input before it was rounded to T.
    void forward(const TokenBatch& batch, const RotaryTable<A>& rotary, MatrixView<const A> input, LayerTape<T>& tape,
                 MatrixView<A> output, AttentionScratch<T>& scratch) const;
    /// Accumulates LoRA gradients and, unless it is empty, overwrites grad_input [T, H], the gradient of
    /// tape.attention_input.
    void backward(const TokenBatch& batch, const RotaryTable<A>& rotary, const LayerTape<T>& tape,
                  MatrixView<const A> grad_output, MatrixView<A> grad_input, AttentionScratch<T>& scratch) const;

protected:
    /// Declares the factors of the output projection in the bucket of `lora`.
    AttentionBlock(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora);

    /// Projections to queries, keys and values.
    [[nodiscard]] virtual std::vector<LoraLinear<T>*> input_projections() = 0;
    virtual void load_norms(const WeightSource<T>& source) = 0;
    /// From input [T, H] to query, key and value in `scratch`, and rounded in `tape`.
    virtual void project(const Rotation<A>& rotation, MatrixView<const A> input, LayerTape<T>& tape,
                         AttentionScratch<T>& scratch) const = 0;
    /// Given gradients of query, key and value in `scratch`: what `backward` says.
    virtual void project_backward(const Rotation<A>& rotation, const LayerTape<T>& tape, MatrixView<A> grad_input,
                                  AttentionScratch<T>& scratch) const = 0;

    [[nodiscard]] const kernels::KernelSet& kernels() const noexcept { return kernels_; }
    [[nodiscard]] const AttentionShape& shape() const noexcept { return shape_; }
    [[nodiscard]] const std::string& prefix() const noexcept { return prefix_; }

private:
    [[nodiscard]] std::vector<LoraLinear<T>*> projections();

    const kernels::KernelSet& kernels_;
    AttentionShape shape_;
    std::string prefix_;
    LoraLinear<T> output_projection_;  // from [heads * Dv]
};

/// The attention of a layer, of the kind that the architecture has.
template <class T>
[[nodiscard]] std::unique_ptr<AttentionBlock<T>> make_attention(const Architecture& architecture, index_t layer,
                                                                const LoraLayer<T>& lora);

}  // namespace moesaic::model
