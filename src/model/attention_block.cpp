#include "model/attention_block.hpp"

#include "model/elementwise.hpp"
#include "model/norm.hpp"

#include <array>
#include <cmath>

namespace moesaic::model {

using core::bf16;

template <class T>
AttentionBlock<T>::AttentionBlock(const Architecture& architecture, index_t layer, const kernels::KernelSet& kernels)
    : kernels_(kernels),
      shape_{architecture.heads, architecture.kv_heads, architecture.head_size,
             1.0 / std::sqrt(static_cast<double>(architecture.head_size))},
      norm_epsilon_(architecture.norm_epsilon),
      prefix_(architecture.layer(layer) + "self_attn."),
      query_weight_(shape_.heads * shape_.head_size, architecture.hidden),
      key_weight_(shape_.kv_heads * shape_.head_size, architecture.hidden),
      value_weight_(shape_.kv_heads * shape_.head_size, architecture.hidden),
      output_weight_(architecture.hidden, shape_.heads * shape_.head_size),
      query_norm_(static_cast<std::size_t>(shape_.head_size)),
      key_norm_(static_cast<std::size_t>(shape_.head_size)) {}

template <class T>
void AttentionBlock<T>::load(const WeightSource<T>& source) {
    source.read_matrix(prefix_ + "q_proj.weight", query_weight_);
    source.read_matrix(prefix_ + "k_proj.weight", key_weight_);
    source.read_matrix(prefix_ + "v_proj.weight", value_weight_);
    source.read_matrix(prefix_ + "o_proj.weight", output_weight_);
    source.read_vector(prefix_ + "q_norm.weight", query_norm_);
    source.read_vector(prefix_ + "k_norm.weight", key_norm_);
}

template <class T>
MatrixView<accumulator_t<T>> AttentionBlock<T>::per_head(Matrix<A>& heads) const {
    return {heads.data(), heads.rows() * heads.cols() / shape_.head_size, shape_.head_size};
}

template <class T>
MatrixView<const T> AttentionBlock<T>::per_head(const Matrix<T>& heads) const {
    return {heads.data(), heads.rows() * heads.cols() / shape_.head_size, shape_.head_size};
}

template <class T>
void AttentionBlock<T>::forward(const TokenBatch& batch, const RotaryTable<A>& rotary, LayerTape<T>& tape,
                                MatrixView<A> output, AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    const index_t query_size = query_weight_.rows();
    const index_t kv_size = key_weight_.rows();
    scratch.raw_query.resize(rows, query_size);
    scratch.raw_key.resize(rows, kv_size);
    scratch.value.resize(rows, kv_size);
    const MatrixView<const T> x = tape.attention_input;
    const std::array<LoraForward<T>, 3> projections = {{{{.weight = query_weight_}, x, scratch.raw_query},
                                                        {{.weight = key_weight_}, x, scratch.raw_key},
                                                        {{.weight = value_weight_}, x, scratch.value}}};
    lora_linear_forward<T>(kernels_, projections, scratch.lora);

    // The norm of heads is computed from the kept values, so that backward differentiates exactly what forward did.
    tape.raw_query.resize(rows, query_size);
    tape.raw_key.resize(rows, kv_size);
    convert<T>(scratch.raw_query, tape.raw_query);
    convert<T>(scratch.raw_key, tape.raw_key);
    tape.query_rstd.resize(static_cast<std::size_t>(rows * shape_.heads));
    tape.key_rstd.resize(static_cast<std::size_t>(rows * shape_.kv_heads));
    scratch.query.resize(rows, query_size);
    scratch.key.resize(rows, kv_size);
    rms_norm_forward<T, A>(per_head(tape.raw_query), query_norm_, norm_epsilon_, per_head(scratch.query),
                           tape.query_rstd);
    rms_norm_forward<T, A>(per_head(tape.raw_key), key_norm_, norm_epsilon_, per_head(scratch.key), tape.key_rstd);
    rotary.rotate(scratch.query, batch.positions);
    rotary.rotate(scratch.key, batch.positions);
    tape.query.resize(rows, query_size);
    tape.key.resize(rows, kv_size);
    tape.value.resize(rows, kv_size);
    convert<T>(scratch.query, tape.query);
    convert<T>(scratch.key, tape.key);
    convert<T>(scratch.value, tape.value);

    tape.attended.resize(rows, query_size);
    tape.log_sum.resize(rows, shape_.heads);
    attention_forward<T>(kernels_, shape_, {tape.query, tape.key, tape.value, batch.offsets}, tape.attended,
                         tape.log_sum);
    const std::array<LoraForward<T>, 1> projection = {{{{.weight = output_weight_}, tape.attended, output}}};
    lora_linear_forward<T>(kernels_, projection, scratch.lora);
}

template <class T>
void AttentionBlock<T>::backward(const TokenBatch& batch, const RotaryTable<A>& rotary, const LayerTape<T>& tape,
                                 MatrixView<const A> grad_output, MatrixView<A> grad_input,
                                 AttentionScratch<T>& scratch) const {
    const index_t rows = batch.rows();
    const index_t query_size = query_weight_.rows();
    const index_t kv_size = key_weight_.rows();
    scratch.attended.resize(rows, query_size);
    const std::array<LoraBackward<T>, 1> output_projection = {{{{.weight = output_weight_},
                                                                tape.attended,
                                                                as_operand<T>(grad_output, scratch.grad_output),
                                                                scratch.attended}}};
    lora_linear_backward<T>(kernels_, output_projection, scratch.lora);

    scratch.query.resize(rows, query_size);
    scratch.key.resize(rows, kv_size);
    scratch.value.resize(rows, kv_size);
    attention_backward<T>(kernels_, shape_, {tape.query, tape.key, tape.value, batch.offsets}, tape.attended,
                          tape.log_sum, as_operand<T>(scratch.attended, scratch.grad_attended), scratch.query,
                          scratch.key, scratch.value);
    rotary.rotate_back(scratch.query, batch.positions);
    rotary.rotate_back(scratch.key, batch.positions);
    scratch.raw_query.resize(rows, query_size);
    scratch.raw_key.resize(rows, kv_size);
    scratch.raw_query.fill(A(0));
    scratch.raw_key.fill(A(0));
    rms_norm_backward<T, A>(per_head(scratch.query), per_head(tape.raw_query), query_norm_, tape.query_rstd,
                            per_head(scratch.raw_query));
    rms_norm_backward<T, A>(per_head(scratch.key), per_head(tape.raw_key), key_norm_, tape.key_rstd,
                            per_head(scratch.raw_key));

    const MatrixView<const T> x = tape.attention_input;
    const std::array<LoraBackward<T>, 3> projections = {
        {{{.weight = query_weight_}, x, as_operand<T>(scratch.raw_query, scratch.grad_query), grad_input, false},
         {{.weight = key_weight_}, x, as_operand<T>(scratch.raw_key, scratch.grad_key), grad_input, true},
         {{.weight = value_weight_}, x, as_operand<T>(scratch.value, scratch.grad_value), grad_input, true}}};
    for (const LoraBackward<T>& projection : projections) {  // one by one, because they share grad_input
        lora_linear_backward<T>(kernels_, {&projection, 1}, scratch.lora);
    }
}

template class AttentionBlock<bf16>;
template class AttentionBlock<float>;
template class AttentionBlock<double>;

}  // namespace moesaic::model
