#include "model/mixers/grouped_attention.hpp"

#include <array>
#include <utility>

namespace moesaic::model {
namespace {

using core::bf16;

/// Norm, bound and rotation of `heads` heads.
ops::HeadTransformSettings rotated_heads(const Architecture& architecture, index_t heads) {
    const AttentionSettings& attention = architecture.attention;
    const index_t norm_size = (attention.norm == ops::HeadNorm::all_heads ? heads : 1) * attention.head_size;
    return {attention.norm, norm_size, architecture.norm_epsilon, attention.clip, true, {attention.head_size, 0}};
}

ops::HeadTransformSettings bounded_values(const Architecture& architecture) {
    return {.clip = architecture.attention.clip, .part = {}};
}

}  // namespace

BlockPlan plan_grouped_attention(const Architecture& architecture, index_t layer, const LoraSettings& lora) {
    const AttentionSettings& attention = architecture.attention;
    const std::string prefix = attention_prefix(architecture, layer);
    BlockPlan plan = plan_softmax_attention(architecture, layer, lora);
    plan.kind = "grouped attention";
    const auto add = [&](const char* name, index_t out) {
        plan.projections.push_back(plan_projection(prefix + name, out, architecture.hidden, LoraTarget::attention, lora,
                                                   attention.input_bias));
    };
    add("q_proj", attention.heads * attention.head_size);
    add("k_proj", attention.kv_heads * attention.head_size);
    add("v_proj", attention.kv_heads * attention.value_size);
    const index_t queries = attention.heads * attention.head_size;
    const index_t keys = attention.kv_heads * attention.head_size;
    const index_t values = attention.kv_heads * attention.value_size;
    plan.add_linears({"q_proj", "k_proj", "v_proj"}, lora);
    plan.scratch.push_back({"attention.grad_heads", ops::Rows::own, ops::Element::scalar, queries, true});
    plan.scratch.push_back({"attention.grad_key and value", ops::Rows::own, ops::Element::scalar, keys + values, true});
    plan_head_transform(rotated_heads(architecture, attention.heads), queries, plan.state, plan.scratch);
    plan_head_transform(rotated_heads(architecture, attention.kv_heads), keys, plan.state, plan.scratch);
    plan_head_transform(bounded_values(architecture), values, plan.state, plan.scratch);
    if (attention.norm != ops::HeadNorm::none) {
        plan.tensors.push_back(
            {prefix + "q_norm.weight", TensorRole::scale, 1, rotated_heads(architecture, attention.heads).norm_size});
        plan.tensors.push_back({prefix + "k_norm.weight", TensorRole::scale, 1,
                                rotated_heads(architecture, attention.kv_heads).norm_size});
    }
    return plan;
}

template <class Scalar>
GroupedAttention<Scalar>::GroupedAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                                           const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace)
    : SoftmaxAttention<Scalar>(architecture, layer, std::move(plan), parameters, workspace),
      query_transform_(workspace.kernels, rotated_heads(architecture, this->shape().heads)),
      key_transform_(workspace.kernels, rotated_heads(architecture, this->shape().kv_heads)),
      value_transform_(workspace.kernels, bounded_values(architecture)) {}

template <class Scalar>
std::vector<MatrixView<accumulator_t<Scalar>>> GroupedAttention<Scalar>::tensors() {
    if (query_transform_.weight().empty()) {
        return {};
    }
    const auto row = [](std::span<Sum> values) { return MatrixView<Sum>(values.data(), 1, std::ssize(values)); };
    return {row(query_transform_.weight()), row(key_transform_.weight())};
}

template <class Scalar>
void GroupedAttention<Scalar>::project(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& x,
                                       SoftmaxAttentionState<Scalar>& state) {
    auto& kept = static_cast<State&>(state);
    AttentionScratch<Scalar>& work = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    work.query.resize(pass.rows(), kept.query.cols());
    work.key.resize(pass.rows(), kept.key.cols());
    work.value.resize(pass.rows(), kept.value.cols());
    ops::LoraLinear<Scalar>::forward(
        std::array<typename ops::LoraLinear<Scalar>::Forward, 3>{{{this->linear("q_proj"), x, work.query},
                                                                  {this->linear("k_proj"), x, work.key},
                                                                  {this->linear("v_proj"), x, work.value}}},
        pass.dropout(), this->workspace().linear);
    query_transform_.forward(rotation, work.query, kept.query_heads, kept.query);
    key_transform_.forward(rotation, work.key, kept.key_heads, kept.key);
    value_transform_.forward(rotation, work.value, kept.value_heads, kept.value);
}

template <class Scalar>
void GroupedAttention<Scalar>::project_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> x,
                                                const SoftmaxAttentionState<Scalar>& state,
                                                MatrixView<Sum> grad_input) {
    const auto& kept = static_cast<const State&>(state);
    AttentionScratch<Scalar>& work = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    work.grad_heads.resize(x.rows(), kept.query.cols());
    work.grad_key.resize(x.rows(), kept.key.cols());
    work.grad_value.resize(x.rows(), kept.value.cols());
    query_transform_.backward(rotation, kept.query_heads, work.query, work.attended, work.grad_heads);
    key_transform_.backward(rotation, kept.key_heads, work.key, work.attended, work.grad_key);
    value_transform_.backward(rotation, kept.value_heads, work.value, work.attended, work.grad_value);
    this->apply_backward(pass, this->linear("q_proj"), x, work.grad_heads, grad_input);
    this->apply_backward(pass, this->linear("k_proj"), x, work.grad_key, grad_input, true);
    this->apply_backward(pass, this->linear("v_proj"), x, work.grad_value, grad_input, true);
}

template class GroupedAttention<bf16>;
template class GroupedAttention<float>;
template class GroupedAttention<double>;

}  // namespace moesaic::model
