#include "model/decoder.hpp"

#include "core/trace.hpp"

#include <algorithm>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

namespace {

template <class T>
std::shared_ptr<TokenExchange<T>> make_exchange(const Architecture& architecture, const DecoderSettings& settings,
                                                const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid) {
    const index_t chunks = settings.chunks > 0 ? settings.chunks
                                               : automatic_chunks(grid, settings.max_tokens / grid.data().size(),
                                                                  architecture.experts, architecture.experts_per_token);
    return std::make_shared<TokenExchange<T>>(grid, kernels, architecture.experts, chunks);
}

}  // namespace

template <class T>
Decoder<T>::Decoder(const Architecture& architecture, const DecoderSettings& settings,
                    const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid)
    : kernels_(kernels),
      architecture_(architecture),
      grid_(grid),
      lora_{settings.lora, {}},
      lora_shared_{kernels, lora_.settings},
      exchange_(make_exchange<T>(architecture_, settings, kernels, grid)),
      rotary_(architecture.attention.rope),
      embedding_(ops::format_for<T>(architecture.stored.others), architecture.vocabulary, architecture.hidden),
      output_norm_(static_cast<std::size_t>(architecture.hidden)) {
    if (!architecture_.tied_head) {
        head_ = ops::PackedWeights(embedding_.format(), architecture.vocabulary, architecture.hidden);
    }
    const auto workspace = std::make_shared<ops::ExpertWorkspace<T>>();
    const auto mlp = std::make_shared<GatedMlpScratch<T>>();
    const auto router_scratch = std::make_shared<RouterScratch<T>>();
    for (index_t l = 0; l < architecture_.layers; ++l) {
        Layer layer;
        auto bucket = std::make_unique<ParameterBucket<A>>();
        const LoraLayer<T> lora = {lora_shared_, *bucket, embedding_.format()};
        layer.input_norm.resize(static_cast<std::size_t>(architecture.hidden));
        layer.feed_norm.resize(static_cast<std::size_t>(architecture.hidden));
        layer.attention = make_attention<T>(architecture_, l, lora);
        if (architecture_.is_moe[static_cast<std::size_t>(l)]) {
            auto shared = architecture_.shared.intermediate > 0
                              ? std::make_unique<SharedExpert<T>>(architecture_, l, settings.activations, lora, mlp)
                              : nullptr;
            layer.feed_forward = std::make_unique<MoeLayer<T>>(architecture_, l, settings, kernels, grid_, lora_,
                                                               workspace, exchange_, router_scratch, std::move(shared));
        } else {
            layer.feed_forward = std::make_unique<DenseFeedForward<T>>(
                GatedMlp<T>(architecture_.layer(l) + architecture_.names.dense, architecture_,
                            architecture_.dense_intermediate, LoraTarget::dense, settings.activations, lora, mlp));
        }
        if (!bucket->tensors.empty()) {
            allocate(*bucket);
            lora_.buckets.push_back(std::move(bucket));
        }
        layers_.push_back(std::move(layer));
    }
    const auto first = std::find_if(layers_.begin(), layers_.end(), [](const Layer& layer) {
        return layer.attention->is_trainable() || layer.feed_forward->is_trainable();
    });
    lowest_trainable_ = first - layers_.begin();
}

template <class T>
void Decoder<T>::load(const WeightSource<T>& source) {
    const Scope scope("load", "io");
    source.fill_whole("model.embed_tokens.weight", embedding_);
    if (!architecture_.tied_head) {
        source.fill_whole("lm_head.weight", head_);
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
const ops::PackedWeights& Decoder<T>::head() const {
    return architecture_.tied_head ? embedding_ : head_;
}

template <class T>
void Decoder<T>::update_lora() {
    for (Layer& layer : layers_) {
        layer.attention->update_lora();
        layer.feed_forward->update_lora();
    }
}

/// Dropout of the pass. A token is known by its sequence and its position there.
template <class T>
void Decoder<T>::start_dropout(const ops::TokenBatch& batch, bool save) {
    const LoraSettings& lora = lora_.settings;
    lora_shared_.dropout = {save ? lora.dropout : 0, lora.dropout_seed, batch.step, {}};
    if (!lora_shared_.dropout.is_active()) {
        return;
    }
    tokens_.clear();
    for (index_t s = 0; s < batch.sequences(); ++s) {
        const auto number = static_cast<std::size_t>(s);
        const index_t sequence = batch.sequence_ids.empty() ? s : batch.sequence_ids[number];
        for (index_t row = batch.offsets[number]; row < batch.offsets[number + 1]; ++row) {
            const auto position = static_cast<std::uint64_t>(batch.positions[static_cast<std::size_t>(row)]);
            tokens_.push_back(static_cast<std::uint64_t>(sequence) << 32U | position);
        }
    }
    lora_shared_.dropout.rows = tokens_;
}

template <class T>
void Decoder<T>::embed(const ops::TokenBatch& batch, MatrixView<A> out) const {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < batch.rows(); ++row) {
        embedding_.widen_row(kernels_, batch.tokens[static_cast<std::size_t>(row)], out[row]);
    }
}

template <class T>
typename Decoder<T>::StreamPoint Decoder<T>::entry_of(std::size_t layer, Tape<T>& tape, index_t rows, bool save) {
    const index_t hidden = architecture_.hidden;
    const bool last = layer == layers_.size();
    // Without backward one layer's tape serves all layers.
    LayerTape<T>& kept = tape.layers[save && !last ? layer : 0];
    Matrix<A>& stream = last ? tape.output : kept.input;
    Matrix<T>& normed = last ? tape.normed : kept.attention_input;
    std::vector<A>& rstd = last ? tape.output_rstd : kept.input_rstd;
    stream.resize(rows, hidden);
    normed.resize(rows, hidden);
    rstd.resize(static_cast<std::size_t>(rows));
    const MatrixView<A> wide = last ? MatrixView<A>() : block_input_.view();
    return {stream, last ? output_norm_ : layers_[layer].input_norm, {normed, wide, rstd}};
}

template <class T>
MatrixView<const T> Decoder<T>::forward(const ops::TokenBatch& batch, Tape<T>& tape, bool save) {
    const Scope scope("decoder.forward", "step");
    const index_t rows = batch.rows();
    const index_t hidden = architecture_.hidden;
    const double epsilon = architecture_.norm_epsilon;
    const kernels::ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    const index_t longest =
        batch.positions.empty() ? 0 : *std::max_element(batch.positions.begin(), batch.positions.end()) + 1;
    rotary_.extend(rotary_.is_dynamic() ? grid_.world().max(longest) : longest);

    start_dropout(batch, save);
    exchange_->begin_pass(rows, lora_shared_.dropout);

    tape.layers.resize(save ? layers_.size() : 1);
    block_input_.resize(rows, hidden);
    block_output_.resize(rows, hidden);
    const StreamPoint start = entry_of(0, tape, rows, save);
    embed(batch, start.stream);
    ops::rms_norm_forward<T>(row_kernels, start.stream, start.weight, epsilon, start.norm);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        Layer& layer = layers_[l];
        LayerTape<T>& kept = tape.layers[save ? l : 0];
        layer.attention->forward(batch, rotary_, block_input_, kept, block_output_, attention_scratch_);
        kept.middle.resize(rows, hidden);
        kept.feed_input.resize(rows, hidden);
        kept.middle_rstd.resize(static_cast<std::size_t>(rows));
        ops::add_and_rms_norm_forward<T>(row_kernels, kept.input, block_output_, kept.middle, layer.feed_norm, epsilon,
                                         {kept.feed_input, block_input_, kept.middle_rstd});
        layer.feed_forward->forward(block_input_, kept, block_output_, save);
        const StreamPoint next = entry_of(l + 1, tape, rows, save);
        ops::add_and_rms_norm_forward<T>(row_kernels, kept.middle, block_output_, next.stream, next.weight, epsilon,
                                         next.norm);
    }
    return tape.normed;
}

template <class T>
void Decoder<T>::backward(const ops::TokenBatch& batch, const Tape<T>& tape, MatrixView<const A> grad_hidden,
                          std::span<const double> grad_probabilities) {
    const Scope scope("decoder.backward", "step");
    const index_t rows = batch.rows();
    grad_stream_.resize(rows, architecture_.hidden);
    grad_block_.resize(rows, architecture_.hidden);
    const kernels::ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    std::vector<A> of_router(grad_probabilities.size());
    std::transform(grad_probabilities.begin(), grad_probabilities.end(), of_router.begin(),
                   [](double gradient) { return static_cast<A>(gradient); });
    ops::rms_norm_backward<T>(row_kernels, grad_hidden, tape.output, output_norm_, tape.output_rstd, grad_stream_,
                              false);
    for (index_t l = architecture_.layers - 1; l >= lowest_trainable_; --l) {
        Layer& layer = layers_[static_cast<std::size_t>(l)];
        const LayerTape<T>& kept = tape.layers[static_cast<std::size_t>(l)];
        const bool lowest = l == lowest_trainable_;  // nothing below has factors to train
        if (lowest && !layer.attention->is_trainable()) {
            layer.feed_forward->backward(kept, grad_stream_, of_router, {});
            return;
        }
        layer.feed_forward->backward(kept, grad_stream_, of_router, grad_block_);
        ops::rms_norm_backward<T>(row_kernels, grad_block_, kept.middle, layer.feed_norm, kept.middle_rstd,
                                  grad_stream_, true);
        layer.attention->backward(batch, rotary_, kept, grad_stream_, lowest ? MatrixView<A>() : grad_block_.view(),
                                  attention_scratch_);
        if (lowest) {
            return;
        }
        ops::rms_norm_backward<T>(row_kernels, grad_block_, kept.input, layer.input_norm, kept.input_rstd, grad_stream_,
                                  true);
    }
}

template class Decoder<bf16>;
template class Decoder<float>;
template class Decoder<double>;

}  // namespace moesaic::model
