// Softmax attention between projections: what grouped-query and latent attention have in common.
#pragma once

#include "model/block.hpp"
#include "model/families/architecture.hpp"
#include "model/workspace.hpp"
#include "ops/attention.hpp"

#include <string>

namespace moesaic::model {

/// What attention keeps, whatever its projections.
template <class T>
struct SoftmaxAttentionState : BlockState<T> {
    Matrix<T> query;                   // [T, heads * D] normalised and rotated
    Matrix<T> key;                     // [T, kv_heads * D]
    Matrix<T> value;                   // [T, kv_heads * Dv]
    Matrix<T> attended;                // [T, heads * Dv]
    Matrix<accumulator_t<T>> log_sum;  // [T, heads]
};

/// The first projection of the plan is that of the output; the others are subclasses' business.
template <class T>
class SoftmaxAttention : public Block<T> {
public:
    using A = accumulator_t<T>;

    void forward(const Pass<T>& pass, const BlockInput<T>& input, BlockState<T>& state, MatrixView<A> output,
                 bool keep) final;
    void backward(const Pass<T>& pass, MatrixView<const T> input, const BlockState<T>& state,
                  MatrixView<const A> grad_output, std::span<const A> grad_probabilities,
                  MatrixView<A> grad_input) final;

protected:
    SoftmaxAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                     const LoraParameters<A>& parameters, Workspace<T>& workspace);

    /// From input [T, H] to query, key and value in the scratch, and rounded in `state`.
    virtual void project(const Pass<T>& pass, MatrixView<const A> input, SoftmaxAttentionState<T>& state) = 0;
    /// Given gradients of query, key and value in the scratch: what `backward` says.
    virtual void project_backward(const Pass<T>& pass, MatrixView<const T> input, const SoftmaxAttentionState<T>& state,
                                  MatrixView<A> grad_input) = 0;

    [[nodiscard]] const ops::AttentionShape& shape() const noexcept { return shape_; }
    [[nodiscard]] AttentionScratch<T>& scratch() const noexcept { return this->workspace().attention; }

private:
    ops::AttentionShape shape_;
};

/// The output projection of a layer's attention.
[[nodiscard]] ProjectionPlan plan_attention_output(const Architecture& architecture, index_t layer,
                                                   const LoraSettings& lora);
/// "model.layers.3.self_attn."
[[nodiscard]] std::string attention_prefix(const Architecture& architecture, index_t layer);

}  // namespace moesaic::model
