// Softmax attention between projections: what grouped-query and latent attention have in common.
#pragma once

#include "model/block.hpp"
#include "model/families/architecture.hpp"
#include "model/workspace.hpp"
#include "ops/attention.hpp"

#include <string>

namespace moesaic::model {

/// What attention keeps, whatever its projections.
template <class Scalar>
struct SoftmaxAttentionState : BlockState<Scalar> {
    Matrix<Scalar> query;                   // [T, heads * D] normalised and rotated
    Matrix<Scalar> key;                     // [T, kv_heads * D]
    Matrix<Scalar> value;                   // [T, kv_heads * Dv]
    Matrix<Scalar> attended;                // [T, heads * Dv]
    Matrix<accumulator_t<Scalar>> log_sum;  // [T, heads]
};

/// The first projection of the plan is that of the output; the others are subclasses' business.
template <class Scalar>
class SoftmaxAttention : public Block<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    void forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, BlockState<Scalar>& state,
                 MatrixView<Sum> output, bool keep) final;
    void backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const BlockState<Scalar>& state,
                  MatrixView<const Sum> grad_output, std::span<const Sum> grad_probabilities,
                  MatrixView<Sum> grad_input) final;

protected:
    SoftmaxAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                     const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace);

    /// From input [T, H] to query, key and value in the scratch, and rounded in `state`.
    virtual void project(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input,
                         SoftmaxAttentionState<Scalar>& state) = 0;
    /// Given gradients of query, key and value in the scratch: what `backward` says.
    virtual void project_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input,
                                  const SoftmaxAttentionState<Scalar>& state, MatrixView<Sum> grad_input) = 0;

    [[nodiscard]] const ops::AttentionShape& shape() const noexcept { return shape_; }
    [[nodiscard]] AttentionScratch<Scalar>& scratch() const noexcept { return this->workspace().attention; }

private:
    ops::AttentionShape shape_;
};

/// What the plans of its subclasses begin with: the output projection, and the buffers that they have in common.
[[nodiscard]] BlockPlan plan_softmax_attention(const Architecture& architecture, index_t layer,
                                               const LoraSettings& lora);
/// "model.layers.3.self_attn."
[[nodiscard]] std::string attention_prefix(const Architecture& architecture, index_t layer);

}  // namespace moesaic::model
