#include "model/mixers/softmax_attention.hpp"

#include "ops/elementwise.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

std::string attention_prefix(const Architecture& architecture, index_t layer) {
    return architecture.layer(layer) + "self_attn.";
}

ProjectionPlan plan_attention_output(const Architecture& architecture, index_t layer, const LoraSettings& lora) {
    const AttentionSettings& attention = architecture.attention;
    return plan_projection(attention_prefix(architecture, layer) + "o_proj", architecture.hidden,
                           attention.heads * attention.value_size, LoraTarget::attention, lora, attention.output_bias);
}

template <class Scalar>
SoftmaxAttention<Scalar>::SoftmaxAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                                           const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace)
    : Block<Scalar>(std::move(plan), parameters, workspace),
      shape_{architecture.attention.heads,     architecture.attention.kv_heads,
             architecture.attention.head_size, architecture.attention.value_size,
             architecture.attention.scale,     architecture.attention.windows[static_cast<std::size_t>(layer)]} {}

template <class Scalar>
void SoftmaxAttention<Scalar>::forward(const Pass<Scalar>& pass, const BlockInput<Scalar>& input,
                                       BlockState<Scalar>& state, MatrixView<Sum> output, bool) {
    auto& kept = static_cast<SoftmaxAttentionState<Scalar>&>(state);
    AttentionScratch<Scalar>& work = scratch();
    const index_t rows = pass.rows();
    kept.query.resize(rows, shape_.heads * shape_.head_size);
    kept.key.resize(rows, shape_.kv_heads * shape_.head_size);
    kept.value.resize(rows, shape_.kv_heads * shape_.value_size);
    kept.attended.resize(rows, shape_.heads * shape_.value_size);
    kept.log_sum.resize(rows, shape_.heads);
    project(pass, input.wide, kept);
    work.attended.resize(rows, kept.attended.cols());
    ops::attention_forward<Scalar>(this->kernels(), shape_, {work.query, work.key, work.value, pass.batch.offsets},
                                   work.attended, kept.log_sum);
    ops::convert<Scalar>(this->kernels().template elementwise<Scalar>(), work.attended, kept.attended.view());
    this->apply(pass, this->linear(0), work.attended, output);
}

template <class Scalar>
void SoftmaxAttention<Scalar>::backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input,
                                        const BlockState<Scalar>& state, MatrixView<const Sum> grad_output,
                                        std::span<const Sum>, MatrixView<Sum> grad_input) {
    const auto& kept = static_cast<const SoftmaxAttentionState<Scalar>&>(state);
    AttentionScratch<Scalar>& work = scratch();
    const index_t rows = pass.rows();
    const kernels::ElementwiseKernels<Scalar>& row_kernels = this->kernels().template elementwise<Scalar>();
    work.attended.resize(rows, kept.attended.cols());
    this->apply_backward(pass, this->linear(0), kept.attended,
                         ops::as_operand<Scalar>(row_kernels, grad_output, work.grad_output), work.attended);
    work.query.resize(rows, kept.query.cols());
    work.key.resize(rows, kept.key.cols());
    work.value.resize(rows, kept.value.cols());
    ops::attention_backward<Scalar>(
        this->kernels(), shape_, {kept.query, kept.key, kept.value, pass.batch.offsets}, kept.attended, kept.log_sum,
        ops::as_operand<Scalar>(row_kernels, work.attended, work.grad_attended), work.query, work.key, work.value);
    project_backward(pass, input, kept, grad_input);
}

template class SoftmaxAttention<bf16>;
template class SoftmaxAttention<float>;
template class SoftmaxAttention<double>;

}  // namespace moesaic::model
