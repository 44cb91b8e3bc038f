#include "model/decoder.hpp"

#include "core/trace.hpp"
#include "model/feed_forward/feed_forward.hpp"
#include "model/mixers/token_mixer.hpp"

#include <algorithm>
#include <utility>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

GridPlace place_in(const mpi::ProcessGrid& grid) {
    return {grid.expert().rank(), grid.expert().size(), grid.tensor().rank(), grid.tensor().size()};
}

namespace {

index_t chunks_of(const Architecture& architecture, const DecoderSettings& settings, const mpi::ProcessGrid& grid) {
    return settings.chunks > 0 ? settings.chunks
                               : automatic_chunks(grid.replicas_span_hosts(), settings.max_tokens / grid.data().size(),
                                                  architecture.experts, architecture.experts_per_token);
}

}  // namespace

std::vector<ops::BufferPlan> plan_stream(const Architecture& architecture) {
    return {{"stream", ops::Rows::own, ops::Element::sum, architecture.hidden}};
}

std::vector<ops::BufferPlan> plan_norm(const Architecture& architecture) {
    return {{"rstd", ops::Rows::own, ops::Element::sum, 1},
            {"input", ops::Rows::own, ops::Element::scalar, architecture.hidden}};
}

std::vector<ops::BufferPlan> plan_decoder(const Architecture& architecture) {
    using ops::Element;
    using ops::Rows;
    std::vector<ops::BufferPlan> buffers = plan_stream(architecture);  // after the last block
    ops::append(plan_norm(architecture), buffers);
    buffers.push_back({"block_input", Rows::own, Element::exact, architecture.hidden});
    buffers.push_back({"block_output", Rows::own, Element::sum, architecture.hidden});
    buffers.push_back({"cosines and sines", Rows::own, Element::sum, architecture.attention.rope.size});
    return buffers;
}

template <class Scalar>
Decoder<Scalar>::Decoder(const Architecture& architecture, const DecoderSettings& settings,
                         const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid)
    : Decoder(architecture, settings, kernels, grid, plan_layers(architecture, settings, place_in(grid))) {}

template <class Scalar>
Decoder<Scalar>::Decoder(const Architecture& architecture, const DecoderSettings& settings,
                         const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, std::vector<LayerPlan> plans)
    : kernels_(kernels),
      architecture_(architecture),
      grid_(grid),
      activations_(settings.activations),
      lora_(plans, settings.lora),
      workspace_{kernels, {grid, kernels, architecture.experts, chunks_of(architecture, settings, grid)}},
      rotary_(std::make_shared<ops::RotaryTable<Sum>>(architecture.attention.rope)),
      embedding_(ops::PackedWeights::without_memory(ops::format_for<Scalar>(architecture.stored.embedding),
                                                    architecture.vocabulary, architecture.hidden)),
      output_norm_(static_cast<std::size_t>(architecture.hidden)) {
    if (!architecture_.tied_head) {
        head_ = ops::PackedWeights::without_memory(embedding_.format(), architecture.vocabulary, architecture.hidden);
    }
    const auto add = [&](std::unique_ptr<Block<Scalar>> block) {
        const auto size = static_cast<std::size_t>(block->norm().cols);
        blocks_.push_back({std::vector<Sum>(size), std::move(block)});
    };
    for (index_t l = 0; l < architecture_.layers; ++l) {
        LayerPlan& plan = plans[static_cast<std::size_t>(l)];
        add(make_token_mixer<Scalar>(architecture_, l, std::move(plan.mixer), lora_, workspace_));
        add(make_feed_forward<Scalar>(architecture_, l, std::move(plan.feed_forward), settings, lora_, workspace_));
    }
    const auto lowest = std::find_if(blocks_.begin(), blocks_.end(),
                                     [](const NormedBlock& block) { return block.block->is_trainable(); });
    lowest_trainable_ = static_cast<std::size_t>(lowest - blocks_.begin());
}

template <class Scalar>
void Decoder<Scalar>::load(const WeightSource<Scalar>& source, const std::function<void(index_t)>& loaded) {
    const Scope scope(core::scopes::load);
    source.fill_whole(embedding_name, embedding_);
    if (!architecture_.tied_head) {
        source.fill_whole(head_name, head_);
    }
    source.read_vector("model.norm.weight", TensorRole::scale, output_norm_);
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
        NormedBlock& block = blocks_[b];
        source.read_vector(block.block->norm().name, block.block->norm().role, block.norm);
        block.block->load(source);
        if (b % 2 == 1) {  // a layer is a mixer and a feed-forward network
            loaded(static_cast<index_t>(b / 2 + 1));
        }
    }
    weights_fingerprint_ = source.fingerprint();
}

template <class Scalar>
const ops::PackedWeights& Decoder<Scalar>::head() const {
    return architecture_.tied_head ? embedding_ : head_;
}

template <class Scalar>
void Decoder<Scalar>::update_lora() {
    for (NormedBlock& block : blocks_) {
        block.block->update_lora();
    }
}

template <class Scalar>
void Decoder<Scalar>::start_pass(const ops::TokenBatch& batch, bool save, Pass<Scalar>& pass) {
    pass.batch = batch;
    pass.is_saved = save;
    pass.dropout_probability = lora_.settings.dropout;
    pass.dropout_seed = lora_.settings.dropout_seed;
    pass.tokens.clear();
    if (save && pass.dropout_probability > 0) {
        pass.tokens = ops::identities_of(batch);
    }
    const auto& positions = batch.positions;
    index_t longest = positions.empty() ? 0 : *std::max_element(positions.begin(), positions.end()) + 1;
    longest = rotary_->is_dynamic() ? grid_.world().max(longest) : longest;
    if (!rotary_->covers(longest)) {
        // Tapes that are open keep the table that they began with.
        auto longer = std::make_shared<ops::RotaryTable<Sum>>(*rotary_);
        longer->extend(longest);
        rotary_ = std::move(longer);
    }
    pass.rotary = rotary_;
    pass.rows_of_ranks = workspace_.exchange.rows_of_ranks(batch.rows());
}

template <class Scalar>
void Decoder<Scalar>::embed(const ops::TokenBatch& batch, MatrixView<Sum> out) const {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < batch.rows(); ++row) {
        embedding_.widen_row(kernels_, batch.tokens[static_cast<std::size_t>(row)], out[row]);
    }
}

template <class Scalar>
Matrix<accumulator_t<Scalar>>& Decoder<Scalar>::stream_of(Tape<Scalar>& tape, std::size_t block) const {
    if (block == blocks_.size()) {
        return tape.output;
    }
    return (kept_of(tape.pass, block).stream ? tape.blocks[block] : tape.passing[block % 2]).stream;
}

template <class Scalar>
BlockTape<Scalar>& Decoder<Scalar>::tape_of(Tape<Scalar>& tape, std::size_t block) const {
    return kept_of(tape.pass, block).state ? tape.blocks[block] : tape.passing[block % 2];
}

template <class Scalar>
BlockState<Scalar>& Decoder<Scalar>::state_of(Tape<Scalar>& tape, std::size_t block) const {
    const Block<Scalar>& one = *blocks_[block].block;
    std::unique_ptr<BlockState<Scalar>>& state =
        kept_of(tape.pass, block).state ? tape.blocks[block].state : tape.passing_states[typeid(one)];
    if (state == nullptr) {
        state = one.make_state();
    }
    return *state;
}

template <class Scalar>
typename Decoder<Scalar>::Norm Decoder<Scalar>::norm_of(Tape<Scalar>& tape, std::size_t block) {
    const index_t rows = tape.pass.rows();
    const bool last = block == blocks_.size();
    Matrix<Scalar>& normed = last ? tape.normed : tape_of(tape, block).input;
    std::vector<Sum>& rstd = last ? tape.output_rstd : tape_of(tape, block).rstd;
    normed.resize(rows, architecture_.hidden);
    rstd.resize(static_cast<std::size_t>(rows));
    const bool is_exact = !last && blocks_[block].block->reads_exact_input();
    block_input_.resize(is_exact ? rows : 0, architecture_.hidden);
    return {last ? output_norm_ : blocks_[block].norm, {normed, block_input_, rstd}};
}

/// The residual stream goes from block to block: each adds what it makes of the normalised stream.
///
///     embed -> stream -> norm -> block --+-> stream -> norm -> block --+-> ... -> norm -> head
///                 |                      |      |                      |
///                 +----------------------+      +----------------------+
template <class Scalar>
void Decoder<Scalar>::run_blocks(Tape<Scalar>& tape, std::size_t first, std::size_t end, RouterLoad* load) {
    const double epsilon = architecture_.norm_epsilon;
    const kernels::ElementwiseKernels<Scalar>& row_kernels = kernels_.elementwise<Scalar>();
    block_output_.resize(tape.pass.rows(), architecture_.hidden);
    const Norm norm = norm_of(tape, first);
    ops::rms_norm_forward<Scalar>(row_kernels, stream_of(tape, first), norm.weight, epsilon, norm.output);
    for (std::size_t b = first; b < end; ++b) {
        run_block(tape, b, block_output_, load);
        Matrix<Sum>& sum = stream_of(tape, b + 1);
        sum.resize(tape.pass.rows(), architecture_.hidden);
        const Norm next = norm_of(tape, b + 1);
        ops::add_and_rms_norm_forward<Scalar>(row_kernels, stream_of(tape, b), block_output_, sum, next.weight, epsilon,
                                              next.output);
    }
}

template <class Scalar>
void Decoder<Scalar>::run_block(Tape<Scalar>& tape, std::size_t block, MatrixView<Sum> output, RouterLoad* load) {
    BlockState<Scalar>& state = state_of(tape, block);
    blocks_[block].block->forward(tape.pass, {tape_of(tape, block).input, block_input_}, state, output,
                                  goes_back(tape.pass, block));
    if (const Routing<Sum>* routing = state.routing(); routing != nullptr && load != nullptr) {
        load->template add<Sum>(routing->expert_ids, architecture_.experts, routing->probabilities);
    }
}

template <class Scalar>
MatrixView<const Scalar> Decoder<Scalar>::forward(const ops::TokenBatch& batch, Tape<Scalar>& tape, bool save) {
    const Scope scope(core::scopes::decoder_forward);
    start_pass(batch, save, tape.pass);
    tape.blocks.resize(blocks_.size());
    tape.load = {};
    Matrix<Sum>& stream = stream_of(tape, 0);
    stream.resize(batch.rows(), architecture_.hidden);
    embed(batch, stream);
    run_blocks(tape, 0, blocks_.size(), save ? &tape.load : nullptr);
    return tape.normed;
}

template <class Scalar>
void Decoder<Scalar>::recompute(Tape<Scalar>& tape, std::size_t last) {
    const Scope scope(core::scopes::recompute);
    run_blocks(tape, first_of_layer(last), last, nullptr);
    run_block(tape, last, {}, nullptr);  // the stream behind it has served
}

/// Through the norm and the block of each addition to the stream, down to the lowest block that has adapters.
template <class Scalar>
void Decoder<Scalar>::backward(Tape<Scalar>& tape, MatrixView<Sum> gradient,
                               std::span<const double> grad_probabilities) {
    const Scope scope(core::scopes::decoder_backward);
    block_output_.resize(tape.pass.rows(), architecture_.hidden);
    const kernels::ElementwiseKernels<Scalar>& row_kernels = kernels_.elementwise<Scalar>();
    std::vector<Sum> of_router(grad_probabilities.size());
    std::transform(grad_probabilities.begin(), grad_probabilities.end(), of_router.begin(),
                   [](double of_expert) { return static_cast<Sum>(of_expert); });
    ops::rms_norm_backward<Scalar>(row_kernels, gradient, tape.output, output_norm_, tape.output_rstd, gradient, false);
    for (std::size_t b = blocks_.size(); b-- > lowest_trainable_;) {
        if (activations_ == ops::Activations::layer && b % 2 == 1) {  // a layer ends with its feed-forward network
            recompute(tape, b);
        }
        const BlockTape<Scalar>& kept = tape_of(tape, b);
        const bool lowest = b == lowest_trainable_;  // nothing below has adapters
        blocks_[b].block->backward(tape.pass, kept.input, state_of(tape, b), gradient, of_router,
                                   lowest ? MatrixView<Sum>() : block_output_.view());
        if (!lowest) {
            ops::rms_norm_backward<Scalar>(row_kernels, block_output_, stream_of(tape, b), blocks_[b].norm, kept.rstd,
                                           gradient, true);
        }
    }
}

template class Decoder<bf16>;
template class Decoder<float>;
template class Decoder<double>;

}  // namespace moesaic::model
