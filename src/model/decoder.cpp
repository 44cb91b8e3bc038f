#include "model/decoder.hpp"

#include "core/trace.hpp"
#include "model/elementwise.hpp"
#include "model/norm.hpp"

#include <algorithm>
#include <numeric>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

template <class T>
Decoder<T>::Decoder(const Architecture& architecture, const LoraSettings& lora, const kernels::KernelSet& kernels,
                    const mpi::ProcessGrid& grid, index_t max_tokens)
    : architecture_(architecture),
      grid_(grid),
      lora_{lora, {}},
      rotary_(architecture.head_size, architecture.rope_theta),
      embedding_(architecture.vocabulary, architecture.hidden),
      output_norm_(static_cast<std::size_t>(architecture.hidden)) {
    if (!architecture_.tied_head) {
        head_.resize(architecture.vocabulary, architecture.hidden);
    }
    const auto workspace = std::make_shared<ExpertWorkspace<T>>();
    const auto dense = std::make_shared<DenseScratch<T>>();
    const auto exchange = std::make_shared<ExchangeScratch<T>>();
    for (index_t l = 0; l < architecture_.layers; ++l) {
        Layer layer;
        layer.input_norm.resize(static_cast<std::size_t>(architecture.hidden));
        layer.feed_norm.resize(static_cast<std::size_t>(architecture.hidden));
        layer.attention = std::make_unique<AttentionBlock<T>>(architecture_, l, kernels);
        if (architecture_.is_moe[static_cast<std::size_t>(l)]) {
            layer.feed_forward =
                std::make_unique<MoeLayer<T>>(architecture_, l, kernels, grid_, max_tokens, lora_, workspace, exchange);
        } else {
            layer.feed_forward = std::make_unique<DenseFeedForward<T>>(architecture_, l, kernels, dense);
        }
        layers_.push_back(std::move(layer));
    }
    const auto first = std::find_if(layers_.begin(), layers_.end(),
                                    [](const Layer& layer) { return layer.feed_forward->is_trainable(); });
    lowest_trainable_ = first - layers_.begin();
}

template <class T>
void Decoder<T>::load(const WeightSource<T>& source) {
    const Scope scope("load", "io");
    source.read_matrix("model.embed_tokens.weight", embedding_);
    if (!architecture_.tied_head) {
        source.read_matrix("lm_head.weight", head_);
    }
    source.read_vector("model.norm.weight", output_norm_);
    for (index_t l = 0; l < architecture_.layers; ++l) {
        Layer& layer = layers_[static_cast<std::size_t>(l)];
        source.read_vector(architecture_.layer(l) + "input_layernorm.weight", layer.input_norm);
        source.read_vector(architecture_.layer(l) + "post_attention_layernorm.weight", layer.feed_norm);
        layer.attention->load(source);
        layer.feed_forward->load(source);
    }
}

template <class T>
MatrixView<const T> Decoder<T>::head() const {
    return architecture_.tied_head ? embedding_.view() : head_.view();
}

template <class T>
void Decoder<T>::update_lora() {
    for (Layer& layer : layers_) {
        if (layer.feed_forward->is_trainable() && lora_.settings.rank > 0) {
            layer.feed_forward->update_lora();
        }
    }
}

template <class T>
void Decoder<T>::embed(const TokenBatch& batch, MatrixView<A> out) const {
    const MatrixView<const T> table = embedding_;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < batch.rows(); ++row) {
        const T* vector = table[batch.tokens[static_cast<std::size_t>(row)]];
        std::transform(vector, vector + table.cols(), out[row], [](T value) { return core::widen(value); });
    }
}

template <class T>
MatrixView<const T> Decoder<T>::forward(const TokenBatch& batch, Tape<T>& tape, bool save) {
    const Scope scope("decoder.forward", "step");
    const index_t rows = batch.rows();
    const index_t hidden = architecture_.hidden;
    const auto row_count = static_cast<std::size_t>(rows);
    const double epsilon = architecture_.norm_epsilon;
    rows_.of_rank = grid_.tensor().all_gather(rows);
    rows_.total = std::accumulate(rows_.of_rank.begin(), rows_.of_rank.end(), index_t{0});
    rotary_.extend(batch.positions.empty() ? 0 : *std::max_element(batch.positions.begin(), batch.positions.end()) + 1);

    // Without backward one layer's tape serves all layers.
    tape.layers.resize(save ? layers_.size() : 1);
    block_input_.resize(rows, hidden);
    block_output_.resize(rows, hidden);
    tape.output.resize(rows, hidden);
    embed(batch, tape.output);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        Layer& layer = layers_[l];
        LayerTape<T>& kept = tape.layers[save ? l : 0];
        kept.input.resize(rows, hidden);
        kept.middle.resize(rows, hidden);
        kept.attention_input.resize(rows, hidden);
        kept.feed_input.resize(rows, hidden);
        kept.input_rstd.resize(row_count);
        kept.middle_rstd.resize(row_count);

        convert<A>(tape.output, kept.input);
        rms_norm_forward<A, T>(kept.input, layer.input_norm, epsilon, kept.attention_input, kept.input_rstd);
        layer.attention->forward(batch, rotary_, kept, block_output_, attention_scratch_);
        convert<A>(kept.input, kept.middle);
        add<A>(block_output_, kept.middle);

        rms_norm_forward<A, A>(kept.middle, layer.feed_norm, epsilon, block_input_, kept.middle_rstd);
        convert<T>(block_input_, kept.feed_input);
        layer.feed_forward->forward(rows_, block_input_, kept, block_output_, save);
        convert<A>(kept.middle, tape.output);
        add<A>(block_output_, tape.output);
    }
    tape.normed.resize(rows, hidden);
    tape.output_rstd.resize(row_count);
    rms_norm_forward<A, T>(tape.output, output_norm_, epsilon, tape.normed, tape.output_rstd);
    return tape.normed;
}

template <class T>
void Decoder<T>::backward(const TokenBatch& batch, const Tape<T>& tape, MatrixView<const A> grad_hidden) {
    const Scope scope("decoder.backward", "step");
    const index_t rows = batch.rows();
    grad_stream_.resize(rows, architecture_.hidden);
    grad_block_.resize(rows, architecture_.hidden);
    grad_stream_.fill(A(0));
    rms_norm_backward<A, A>(grad_hidden, tape.output, output_norm_, tape.output_rstd, grad_stream_);
    for (index_t l = architecture_.layers - 1; l >= lowest_trainable_; --l) {
        Layer& layer = layers_[static_cast<std::size_t>(l)];
        const LayerTape<T>& kept = tape.layers[static_cast<std::size_t>(l)];
        layer.feed_forward->backward(rows_, kept, grad_stream_, grad_block_);
        if (l == lowest_trainable_) {
            return;
        }
        rms_norm_backward<A, A>(grad_block_, kept.middle, layer.feed_norm, kept.middle_rstd, grad_stream_);
        layer.attention->backward(batch, rotary_, kept, grad_stream_, grad_block_, attention_scratch_);
        rms_norm_backward<A, A>(grad_block_, kept.input, layer.input_norm, kept.input_rstd, grad_stream_);
    }
}

template class Decoder<bf16>;
template class Decoder<float>;
template class Decoder<double>;

}  // namespace moesaic::model
