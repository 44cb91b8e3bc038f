#include "model/mixers/attention_latent.hpp"

#include "ops/elementwise.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

using core::bf16;

/// The norm of a compressed vector. Its epsilon does not follow the configuration: transformers leaves it at the
/// default of its norm.
ops::HeadTransformSettings latent_norm(index_t size) {
    constexpr double epsilon = 1e-6;
    return {ops::HeadNorm::all_heads, size, epsilon, 0, false, {}};
}

template <class T>
std::optional<LoraLinear<T>> make_query_down(const std::string& prefix, const Architecture& architecture,
                                             const LoraLayer<T>& lora) {
    const AttentionSettings& attention = architecture.attention;
    if (attention.query_rank == 0) {
        return std::nullopt;
    }
    return std::optional<LoraLinear<T>>(std::in_place, prefix + "q_a_proj",
                                        LinearShape{attention.query_rank, architecture.hidden, attention.input_bias},
                                        LoraTarget::attention, lora);
}

}  // namespace

template <class T>
LatentAttention<T>::LatentAttention(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora)
    : AttentionBlock<T>(architecture, layer, lora),
      kv_rank_(architecture.attention.kv_rank),
      rotated_size_(architecture.attention.rope.size),
      query_down_(make_query_down<T>(this->prefix(), architecture, lora)),
      query_up_(this->prefix() + (query_down_ ? "q_b_proj" : "q_proj"),
                {this->shape().heads * this->shape().head_size, query_down_ ? query_down_->out() : architecture.hidden},
                LoraTarget::attention, lora),
      kv_down_(this->prefix() + "kv_a_proj_with_mqa",
               {kv_rank_ + rotated_size_, architecture.hidden, architecture.attention.input_bias},
               LoraTarget::attention, lora),
      kv_up_(this->prefix() + "kv_b_proj", {this->shape().heads * (plain_size() + this->shape().value_size), kv_rank_},
             LoraTarget::attention, lora),
      query_norm_(lora.shared.kernels, latent_norm(architecture.attention.query_rank)),
      query_rotation_(lora.shared.kernels, {.rotates = true, .part = {this->shape().head_size, plain_size()}}),
      kv_norm_(lora.shared.kernels, latent_norm(kv_rank_)) {}

template <class T>
std::vector<LoraLinear<T>*> LatentAttention<T>::input_projections() {
    std::vector<LoraLinear<T>*> all = {&query_up_, &kv_down_, &kv_up_};
    if (query_down_) {
        all.push_back(&*query_down_);
    }
    return all;
}

template <class T>
void LatentAttention<T>::load_norms(const WeightSource<T>& source) {
    if (query_down_) {
        source.read_vector(this->prefix() + "q_a_layernorm.weight", query_norm_.weight());
    }
    source.read_vector(this->prefix() + "kv_a_layernorm.weight", kv_norm_.weight());
}

template <class T>
void LatentAttention<T>::project_query(const ops::Rotation<A>& rotation, MatrixView<const A> x, LayerTape<T>& tape,
                                       AttentionScratch<T>& scratch) const {
    scratch.query.resize(x.rows(), query_up_.out());
    if (query_down_) {
        scratch.latent.resize(x.rows(), query_down_->out());
        query_down_->forward(x, scratch.latent);
        tape.query_latent.resize(x.rows(), query_down_->out());
        query_norm_.forward(rotation, scratch.latent, tape.query_heads, tape.query_latent);
        query_up_.forward(scratch.latent, scratch.query);
    } else {
        query_up_.forward(x, scratch.query);
    }
    ops::HeadTape<T> nothing;  // a rotation keeps nothing
    query_rotation_.forward(rotation, scratch.query, nothing, tape.query);
}

template <class T>
void LatentAttention<T>::assemble(MatrixView<const A> expanded, MatrixView<const A> shared_key, MatrixView<A> keys,
                                  MatrixView<A> values) const {
    const ops::AttentionShape& shape = this->shape();
    const index_t plain = plain_size();
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < expanded.rows(); ++row) {
        const A* in = expanded[row];
        for (index_t head = 0; head < shape.heads; ++head, in += plain + shape.value_size) {
            A* const key = keys[row] + head * shape.head_size;
            std::copy_n(in, plain, key);
            std::copy_n(shared_key[row], rotated_size_, key + plain);
            std::copy_n(in + plain, shape.value_size, values[row] + head * shape.value_size);
        }
    }
}

template <class T>
void LatentAttention<T>::assemble_backward(const AttentionScratch<T>& scratch, MatrixView<T> grad_expanded,
                                           MatrixView<A> grad_shared_key) const {
    const kernels::ElementwiseKernels<T>& row_kernels = this->kernels().template elementwise<T>();
    const ops::AttentionShape& shape = this->shape();
    const index_t plain = plain_size();
    const MatrixView<const A> grad_keys = scratch.key;
    const MatrixView<const A> grad_values = scratch.value;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_expanded.rows(); ++row) {
        A* const shared = grad_shared_key[row];
        std::fill_n(shared, rotated_size_, A(0));
        T* out = grad_expanded[row];
        for (index_t head = 0; head < shape.heads; ++head, out += plain + shape.value_size) {
            const A* const key = grad_keys[row] + head * shape.head_size;
            row_kernels.narrow(plain, key, out);
            row_kernels.add(rotated_size_, key + plain, shared, shared);
            row_kernels.narrow(shape.value_size, grad_values[row] + head * shape.value_size, out + plain);
        }
    }
}

template <class T>
void LatentAttention<T>::project(const ops::Rotation<A>& rotation, MatrixView<const A> x, LayerTape<T>& tape,
                                 AttentionScratch<T>& scratch) const {
    project_query(rotation, x, tape, scratch);
    scratch.latent.resize(x.rows(), kv_down_.out());
    kv_down_.forward(x, scratch.latent);
    tape.kv_latent.resize(x.rows(), kv_rank_);
    const MatrixView<A> latent = scratch.latent;
    kv_norm_.forward(rotation, latent.columns(0, kv_rank_), tape.key_heads, tape.kv_latent);
    scratch.expanded.resize(x.rows(), kv_up_.out());
    kv_up_.forward(latent.columns(0, kv_rank_), scratch.expanded);
    const MatrixView<A> shared_key = latent.columns(kv_rank_, rotated_size_);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        rotation.table.rotate(this->kernels().template elementwise<A>(), {rotated_size_, 0}, shared_key.row(row),
                              rotation.positions[static_cast<std::size_t>(row)]);
    }
    scratch.key.resize(x.rows(), tape.key.cols());
    scratch.value.resize(x.rows(), tape.value.cols());
    assemble(scratch.expanded, shared_key, scratch.key, scratch.value);
    ops::convert<T>(this->kernels().template elementwise<T>(), scratch.key, tape.key.view());
    ops::convert<T>(this->kernels().template elementwise<T>(), scratch.value, tape.value.view());
}

template <class T>
void LatentAttention<T>::project_query_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape,
                                                MatrixView<A> grad_input, AttentionScratch<T>& scratch) const {
    const MatrixView<const T> x = tape.attention_input;
    scratch.grad_query.resize(x.rows(), query_up_.out());
    query_rotation_.backward(rotation, {}, scratch.query, scratch.work, scratch.grad_query);
    if (!query_down_) {
        query_up_.backward(x, scratch.grad_query, grad_input);
        return;
    }
    scratch.latent.resize(x.rows(), query_down_->out());
    query_up_.backward(tape.query_latent, scratch.grad_query, scratch.latent);
    scratch.grad_latent.resize(x.rows(), query_down_->out());
    query_norm_.backward(rotation, tape.query_heads, scratch.latent, scratch.work, scratch.grad_latent);
    query_down_->backward(x, scratch.grad_latent, grad_input);
}

template <class T>
void LatentAttention<T>::project_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape,
                                          MatrixView<A> grad_input, AttentionScratch<T>& scratch) const {
    project_query_backward(rotation, tape, grad_input, scratch);
    const MatrixView<const T> x = tape.attention_input;
    scratch.grad_expanded.resize(x.rows(), kv_up_.out());
    scratch.latent.resize(x.rows(), kv_down_.out());
    scratch.grad_latent.resize(x.rows(), kv_down_.out());
    const MatrixView<A> latent = scratch.latent;
    const MatrixView<T> grad_latent = scratch.grad_latent;
    const MatrixView<A> shared_key = latent.columns(kv_rank_, rotated_size_);
    assemble_backward(scratch, scratch.grad_expanded, shared_key);
    kv_up_.backward(tape.kv_latent, scratch.grad_expanded, latent.columns(0, kv_rank_));
    kv_norm_.backward(rotation, tape.key_heads, latent.columns(0, kv_rank_), scratch.work,
                      grad_latent.columns(0, kv_rank_));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        rotation.table.rotate_back(this->kernels().template elementwise<A>(), {rotated_size_, 0}, shared_key.row(row),
                                   rotation.positions[static_cast<std::size_t>(row)]);
        this->kernels().template elementwise<T>().narrow(rotated_size_, shared_key[row], grad_latent[row] + kv_rank_);
    }
    kv_down_.backward(x, scratch.grad_latent, grad_input, true);
}

template class LatentAttention<bf16>;
template class LatentAttention<float>;
template class LatentAttention<double>;

}  // namespace moesaic::model
