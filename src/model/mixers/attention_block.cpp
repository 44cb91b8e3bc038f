#include "model/mixers/attention_block.hpp"

#include "model/mixers/attention_grouped.hpp"
#include "model/mixers/attention_latent.hpp"
#include "ops/elementwise.hpp"

#include <algorithm>

namespace moesaic::model {

using core::bf16;

template <class T>
AttentionBlock<T>::AttentionBlock(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora)
    : kernels_(lora.shared.kernels),
      shape_{architecture.attention.heads,     architecture.attention.kv_heads,
             architecture.attention.head_size, architecture.attention.value_size,
             architecture.attention.scale,     architecture.attention.windows[static_cast<std::size_t>(layer)]},
      prefix_(architecture.layer(layer) + "self_attn."),
      output_projection_(prefix_ + "o_proj",
                         {architecture.hidden, shape_.heads * shape_.value_size, architecture.attention.output_bias},
                         LoraTarget::attention, lora) {}

template <class T>
std::vector<LoraLinear<T>*> AttentionBlock<T>::projections() {
    std::vector<LoraLinear<T>*> all = input_projections();
    all.push_back(&output_projection_);
    return all;
}

template <class T>
void AttentionBlock<T>::load(const WeightSource<T>& source) {
    for (LoraLinear<T>* projection : projections()) {
        projection->load(source);
    }
    load_norms(source);
}

template <class T>
bool AttentionBlock<T>::is_trainable() {
    const auto all = projections();
    return std::any_of(all.begin(), all.end(), [](const LoraLinear<T>* p) { return p->is_adapted(); });
}

template <class T>
void AttentionBlock<T>::update_lora() {
    for (LoraLinear<T>* projection : projections()) {
        projection->update_lora();
    }
}

template <class T>
void AttentionBlock<T>::forward(const ops::TokenBatch& batch, const ops::RotaryTable<A>& rotary,
                                MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output,
                                AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    tape.query.resize(rows, shape_.heads * shape_.head_size);
    tape.key.resize(rows, shape_.kv_heads * shape_.head_size);
    tape.value.resize(rows, shape_.kv_heads * shape_.value_size);
    tape.attended.resize(rows, shape_.heads * shape_.value_size);
    tape.log_sum.resize(rows, shape_.heads);
    project({batch.positions, rotary}, input, tape, scratch);
    scratch.attended.resize(rows, tape.attended.cols());
    ops::attention_forward<T>(kernels_, shape_, {scratch.query, scratch.key, scratch.value, batch.offsets},
                              scratch.attended, tape.log_sum);
    ops::convert<T>(kernels_.elementwise<T>(), scratch.attended, tape.attended.view());
    output_projection_.forward(scratch.attended, output);
}

template <class T>
void AttentionBlock<T>::backward(const ops::TokenBatch& batch, const ops::RotaryTable<A>& rotary,
                                 const LayerTape<T>& tape, MatrixView<const A> grad_output, MatrixView<A> grad_input,
                                 AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    const kernels::ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    scratch.attended.resize(rows, tape.attended.cols());
    output_projection_.backward(tape.attended, ops::as_operand<T>(row_kernels, grad_output, scratch.grad_output),
                                scratch.attended);
    scratch.query.resize(rows, tape.query.cols());
    scratch.key.resize(rows, tape.key.cols());
    scratch.value.resize(rows, tape.value.cols());
    ops::attention_backward<T>(kernels_, shape_, {tape.query, tape.key, tape.value, batch.offsets}, tape.attended,
                               tape.log_sum, ops::as_operand<T>(row_kernels, scratch.attended, scratch.grad_attended),
                               scratch.query, scratch.key, scratch.value);
    project_backward({batch.positions, rotary}, tape, grad_input, scratch);
}

template <class T>
std::unique_ptr<AttentionBlock<T>> make_attention(const Architecture& architecture, index_t layer,
                                                  const LoraLayer<T>& lora) {
    if (architecture.attention.kind == AttentionKind::latent) {
        return std::make_unique<LatentAttention<T>>(architecture, layer, lora);
    }
    return std::make_unique<GroupedAttention<T>>(architecture, layer, lora);
}

#define MOESAIC_INSTANTIATE(T)        \
    template class AttentionBlock<T>; \
    template std::unique_ptr<AttentionBlock<T>> make_attention<T>(const Architecture&, index_t, const LoraLayer<T>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
