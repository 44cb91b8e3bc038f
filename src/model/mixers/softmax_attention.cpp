#include "model/mixers/softmax_attention.hpp"

#include "ops/elementwise.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;
using ops::Element;
using ops::Rows;

std::string attention_prefix(const Architecture& architecture, index_t layer) {
    return architecture.layer(layer) + "self_attn.";
}

namespace {

ops::AttentionShape shape_of(const Architecture& architecture, index_t layer) {
    const AttentionSettings& attention = architecture.attention;
    return {attention.heads,      attention.kv_heads, attention.head_size,
            attention.value_size, attention.scale,    attention.windows[static_cast<std::size_t>(layer)]};
}

}  // namespace

BlockPlan plan_softmax_attention(const Architecture& architecture, index_t layer, const LoraSettings& lora) {
    const ops::AttentionShape shape = shape_of(architecture, layer);
    const index_t attended = shape.heads * shape.value_size;
    const index_t heads = shape.heads * shape.head_size + shape.kv_heads * (shape.head_size + shape.value_size);
    BlockPlan plan;
    plan.projections.push_back(plan_projection(attention_prefix(architecture, layer) + "o_proj", architecture.hidden,
                                               attended, LoraTarget::attention, lora,
                                               architecture.attention.output_bias));
    plan.state = {{"query, key and value", Rows::own, Element::scalar, heads},
                  {"attended", Rows::own, Element::scalar, attended},
                  {"log_sum", Rows::own, Element::sum, shape.heads}};
    plan.scratch = {{"attention.query, key and value", Rows::own, Element::sum, heads},
                    {"attention.attended", Rows::own, Element::exact, attended},
                    {"attention.attended", Rows::own, Element::sum, attended, true},
                    {"attention.grad_output", Rows::own, Element::narrow, architecture.hidden, true},
                    {"attention.grad_heads", Rows::own, Element::narrow, attended, true}};
    plan.calls = {ops::plan_attention_forward(shape), ops::plan_attention_backward(shape)};
    plan.add_linears({"o_proj"}, lora);
    return plan;
}

template <class Scalar>
SoftmaxAttention<Scalar>::SoftmaxAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                                           const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace)
    : Block<Scalar>(std::move(plan), parameters, workspace), shape_(shape_of(architecture, layer)) {}

template <class Scalar>
void SoftmaxAttention<Scalar>::forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input,
                                       BlockState<Scalar>& state, MatrixView<Sum> output, bool) {
    auto& kept = static_cast<SoftmaxAttentionState<Scalar>&>(state);
    AttentionScratch<Scalar>& work = scratch();
    const index_t rows = pass.rows();
    kept.query.resize(rows, shape_.heads * shape_.head_size);
    kept.key.resize(rows, shape_.kv_heads * shape_.head_size);
    kept.value.resize(rows, shape_.kv_heads * shape_.value_size);
    kept.attended.resize(rows, shape_.heads * shape_.value_size);
    kept.log_sum.resize(rows, shape_.heads);
    project(pass, input, kept);
    const bool is_exact = this->kernels().template operand_parts<Scalar>() == 2;
    work.attended.resize(is_exact ? rows : 0, kept.attended.cols());
    ops::attention_forward<Scalar>(
        this->kernels(), shape_,
        {{kept.query, work.query}, {kept.key, work.key}, {kept.value, work.value}, pass.batch.offsets}, kept.attended,
        work.attended, kept.log_sum);
    if (output.cols() > 0) {
        this->apply(pass, this->linear("o_proj"), {kept.attended, work.attended}, output);
    }
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
    this->apply_backward(pass, this->linear("o_proj"), kept.attended,
                         ops::as_operand<Scalar>(row_kernels, grad_output, work.grad_output), work.attended);
    work.query.resize(rows, kept.query.cols());
    work.key.resize(rows, kept.key.cols());
    work.value.resize(rows, kept.value.cols());
    ops::attention_backward<Scalar>(this->kernels(), shape_,
                                    {{kept.query}, {kept.key}, {kept.value}, pass.batch.offsets}, kept.attended,
                                    kept.log_sum, ops::as_operand<Scalar>(row_kernels, work.attended, work.grad_heads),
                                    work.query, work.key, work.value);
    project_backward(pass, input, kept, grad_input);
}

template class SoftmaxAttention<bf16>;
template class SoftmaxAttention<float>;
template class SoftmaxAttention<double>;

}  // namespace moesaic::model
