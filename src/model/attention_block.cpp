#include "model/attention_block.hpp"

#include "model/elementwise.hpp"

#include <array>
#include <cmath>

namespace moesaic::model {

using core::bf16;

template <class T>
AttentionBlock<T>::AttentionBlock(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora)
    : kernels_(lora.shared.kernels),
      shape_{architecture.heads, architecture.kv_heads, architecture.head_size,
             1.0 / std::sqrt(static_cast<double>(architecture.head_size))},
      norm_epsilon_(architecture.norm_epsilon),
      prefix_(architecture.layer(layer) + "self_attn."),
      query_projection_(prefix_ + "q_proj", {shape_.heads * shape_.head_size, architecture.hidden},
                        LoraTarget::attention, lora),
      key_projection_(prefix_ + "k_proj", {shape_.kv_heads * shape_.head_size, architecture.hidden},
                      LoraTarget::attention, lora),
      value_projection_(prefix_ + "v_proj", {shape_.kv_heads * shape_.head_size, architecture.hidden},
                        LoraTarget::attention, lora),
      output_projection_(prefix_ + "o_proj", {architecture.hidden, shape_.heads * shape_.head_size},
                         LoraTarget::attention, lora),
      query_norm_(static_cast<std::size_t>(shape_.head_size)),
      key_norm_(static_cast<std::size_t>(shape_.head_size)) {}

template <class T>
void AttentionBlock<T>::load(const WeightSource<T>& source) {
    for (LoraLinear<T>* projection : {&query_projection_, &key_projection_, &value_projection_, &output_projection_}) {
        projection->load(source);
    }
    source.read_vector(prefix_ + "q_norm.weight", query_norm_);
    source.read_vector(prefix_ + "k_norm.weight", key_norm_);
}

template <class T>
bool AttentionBlock<T>::is_trainable() const noexcept {
    return query_projection_.is_adapted() || key_projection_.is_adapted() || value_projection_.is_adapted() ||
           output_projection_.is_adapted();
}

template <class T>
void AttentionBlock<T>::update_lora() {
    for (LoraLinear<T>* projection : {&query_projection_, &key_projection_, &value_projection_, &output_projection_}) {
        projection->update_lora();
    }
}

template <class T>
void AttentionBlock<T>::normalise_and_rotate(const HeadNorm& norm, std::span<const index_t> positions,
                                             const RotaryTable<A>& rotary, Matrix<A>& heads, Matrix<T>& raw,
                                             std::vector<A>& rstd, Matrix<T>& out) const {
    const ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    const index_t size = shape_.head_size;
    const index_t count = heads.cols() / size;
    raw.resize(heads.rows(), heads.cols());
    out.resize(heads.rows(), heads.cols());
    rstd.resize(static_cast<std::size_t>(heads.rows() * count));
    const MatrixView<A> all = heads;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < all.rows(); ++row) {
        // The norm is computed from the kept values, so that backward differentiates exactly what forward did.
        row_kernels.narrow(all.cols(), all[row], raw.view()[row]);
        row_kernels.widen(all.cols(), raw.view()[row], all[row]);
        for (index_t h = 0; h < count; ++h) {
            A* head = all[row] + h * size;
            rstd[static_cast<std::size_t>(row * count + h)] =
                row_kernels.rms_norm_forward(size, head, norm.data(), static_cast<A>(norm_epsilon_), nullptr, head);
        }
        rotary.rotate(kernels_.elementwise<A>(), all.row(row), positions[static_cast<std::size_t>(row)]);
        row_kernels.narrow(all.cols(), all[row], out.view()[row]);
    }
}

template <class T>
void AttentionBlock<T>::normalise_and_rotate_backward(const HeadNorm& norm, std::span<const index_t> positions,
                                                      const RotaryTable<A>& rotary, const Matrix<T>& raw,
                                                      const std::vector<A>& rstd, Matrix<A>& grad_heads,
                                                      Matrix<A>& wide_raw, Matrix<T>& out) const {
    const ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    const index_t size = shape_.head_size;
    const index_t count = raw.cols() / size;
    wide_raw.resize(raw.rows(), raw.cols());
    out.resize(raw.rows(), raw.cols());
    const MatrixView<A> all = grad_heads;
    const MatrixView<A> all_raw = wide_raw;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < all.rows(); ++row) {
        rotary.rotate_back(kernels_.elementwise<A>(), all.row(row), positions[static_cast<std::size_t>(row)]);
        row_kernels.widen(raw.cols(), raw.view()[row], all_raw[row]);
        for (index_t h = 0; h < count; ++h) {
            A* grad = all[row] + h * size;
            row_kernels.rms_norm_backward(size, grad, all_raw[row] + h * size, norm.data(),
                                          rstd[static_cast<std::size_t>(row * count + h)], nullptr, grad);
        }
        row_kernels.narrow(all.cols(), all[row], out.view()[row]);
    }
}

template <class T>
void AttentionBlock<T>::forward(const TokenBatch& batch, const RotaryTable<A>& rotary, LayerTape<T>& tape,
                                MatrixView<A> output, AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    const index_t query_size = query_projection_.out();
    const index_t kv_size = key_projection_.out();
    scratch.raw_query.resize(rows, query_size);
    scratch.raw_key.resize(rows, kv_size);
    scratch.value.resize(rows, kv_size);
    const MatrixView<const T> x = tape.attention_input;
    LoraLinear<T>::forward(std::array<typename LoraLinear<T>::Forward, 3>{{{query_projection_, x, scratch.raw_query},
                                                                           {key_projection_, x, scratch.raw_key},
                                                                           {value_projection_, x, scratch.value}}});

    normalise_and_rotate(query_norm_, batch.positions, rotary, scratch.raw_query, tape.raw_query, tape.query_rstd,
                         tape.query);
    normalise_and_rotate(key_norm_, batch.positions, rotary, scratch.raw_key, tape.raw_key, tape.key_rstd, tape.key);
    tape.value.resize(rows, kv_size);
    convert<T>(kernels_.elementwise<T>(), scratch.value, tape.value);

    tape.attended.resize(rows, query_size);
    tape.log_sum.resize(rows, shape_.heads);
    attention_forward<T>(kernels_, shape_, {tape.query, tape.key, tape.value, batch.offsets}, tape.attended,
                         tape.log_sum);
    output_projection_.forward(tape.attended, output);
}

template <class T>
void AttentionBlock<T>::backward(const TokenBatch& batch, const RotaryTable<A>& rotary, const LayerTape<T>& tape,
                                 MatrixView<const A> grad_output, MatrixView<A> grad_input,
                                 AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    const index_t query_size = query_projection_.out();
    const index_t kv_size = key_projection_.out();
    scratch.attended.resize(rows, query_size);
    output_projection_.backward(
        tape.attended, as_operand<T>(kernels_.elementwise<T>(), grad_output, scratch.grad_output), scratch.attended);

    scratch.query.resize(rows, query_size);
    scratch.key.resize(rows, kv_size);
    scratch.value.resize(rows, kv_size);
    attention_backward<T>(kernels_, shape_, {tape.query, tape.key, tape.value, batch.offsets}, tape.attended,
                          tape.log_sum,
                          as_operand<T>(kernels_.elementwise<T>(), scratch.attended, scratch.grad_attended),
                          scratch.query, scratch.key, scratch.value);
    normalise_and_rotate_backward(query_norm_, batch.positions, rotary, tape.raw_query, tape.query_rstd, scratch.query,
                                  scratch.raw_query, scratch.grad_query);
    normalise_and_rotate_backward(key_norm_, batch.positions, rotary, tape.raw_key, tape.key_rstd, scratch.key,
                                  scratch.raw_key, scratch.grad_key);

    const MatrixView<const T> x = tape.attention_input;
    query_projection_.backward(x, scratch.grad_query, grad_input);
    key_projection_.backward(x, scratch.grad_key, grad_input, true);
    value_projection_.backward(x, as_operand<T>(kernels_.elementwise<T>(), scratch.value, scratch.grad_value),
                               grad_input, true);
}

template class AttentionBlock<bf16>;
template class AttentionBlock<float>;
template class AttentionBlock<double>;

}  // namespace moesaic::model
