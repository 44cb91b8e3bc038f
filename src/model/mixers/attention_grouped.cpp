#include "model/mixers/attention_grouped.hpp"

#include <array>

namespace moesaic::model {
namespace {

using core::bf16;

/// Norm, bound and rotation of `heads` heads.
ops::HeadTransformSettings rotated_heads(const Architecture& architecture, index_t heads) {
    const AttentionSettings& attention = architecture.attention;
    const index_t norm_size = (attention.norm == ops::HeadNorm::all_heads ? heads : 1) * attention.head_size;
    return {attention.norm, norm_size, architecture.norm_epsilon, attention.clip, true, {attention.head_size, 0}};
}

}  // namespace

template <class T>
GroupedAttention<T>::GroupedAttention(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora)
    : AttentionBlock<T>(architecture, layer, lora),
      query_projection_(
          this->prefix() + "q_proj",
          {this->shape().heads * this->shape().head_size, architecture.hidden, architecture.attention.input_bias},
          LoraTarget::attention, lora),
      key_projection_(
          this->prefix() + "k_proj",
          {this->shape().kv_heads * this->shape().head_size, architecture.hidden, architecture.attention.input_bias},
          LoraTarget::attention, lora),
      value_projection_(
          this->prefix() + "v_proj",
          {this->shape().kv_heads * this->shape().value_size, architecture.hidden, architecture.attention.input_bias},
          LoraTarget::attention, lora),
      query_transform_(lora.shared.kernels, rotated_heads(architecture, this->shape().heads)),
      key_transform_(lora.shared.kernels, rotated_heads(architecture, this->shape().kv_heads)),
      value_transform_(lora.shared.kernels, {.clip = architecture.attention.clip, .part = {}}) {}

template <class T>
void GroupedAttention<T>::load_norms(const WeightSource<T>& source) {
    if (!query_transform_.weight().empty()) {
        source.read_vector(this->prefix() + "q_norm.weight", query_transform_.weight());
        source.read_vector(this->prefix() + "k_norm.weight", key_transform_.weight());
    }
}

template <class T>
void GroupedAttention<T>::project(const ops::Rotation<A>& rotation, MatrixView<const A> x, LayerTape<T>& tape,
                                  AttentionScratch<T>& scratch) const {
    scratch.query.resize(x.rows(), tape.query.cols());
    scratch.key.resize(x.rows(), tape.key.cols());
    scratch.value.resize(x.rows(), tape.value.cols());
    LoraLinear<T>::forward(std::array<typename LoraLinear<T>::Forward, 3>{{{query_projection_, x, scratch.query},
                                                                           {key_projection_, x, scratch.key},
                                                                           {value_projection_, x, scratch.value}}});
    query_transform_.forward(rotation, scratch.query, tape.query_heads, tape.query);
    key_transform_.forward(rotation, scratch.key, tape.key_heads, tape.key);
    value_transform_.forward(rotation, scratch.value, tape.value_heads, tape.value);
}

template <class T>
void GroupedAttention<T>::project_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape,
                                           MatrixView<A> grad_input, AttentionScratch<T>& scratch) const {
    const MatrixView<const T> x = tape.attention_input;
    scratch.grad_query.resize(x.rows(), tape.query.cols());
    scratch.grad_key.resize(x.rows(), tape.key.cols());
    scratch.grad_value.resize(x.rows(), tape.value.cols());
    query_transform_.backward(rotation, tape.query_heads, scratch.query, scratch.work, scratch.grad_query);
    key_transform_.backward(rotation, tape.key_heads, scratch.key, scratch.work, scratch.grad_key);
    value_transform_.backward(rotation, tape.value_heads, scratch.value, scratch.work, scratch.grad_value);
    query_projection_.backward(x, scratch.grad_query, grad_input);
    key_projection_.backward(x, scratch.grad_key, grad_input, true);
    value_projection_.backward(x, scratch.grad_value, grad_input, true);
}

template class GroupedAttention<bf16>;
template class GroupedAttention<float>;
template class GroupedAttention<double>;

}  // namespace moesaic::model
