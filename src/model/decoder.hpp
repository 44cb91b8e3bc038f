// The frozen decoder with LoRA on its projections: forward pass and exact backward pass.
#pragma once

#include "kernels/gemm.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/families/architecture.hpp"
#include "model/feed_forward/feed_forward.hpp"
#include "model/mixers/attention_block.hpp"
#include "model/tape.hpp"
#include "model/weights/weights.hpp"
#include "mpi/process_grid.hpp"
#include "ops/norm.hpp"
#include "ops/rope.hpp"
#include "ops/token_batch.hpp"

#include <memory>
#include <span>
#include <vector>

namespace moesaic::model {

/// T is the type of activations: bf16, float, or double (for gradient checks). Each rank passes its own
/// sequences; everything but the experts is replicated.
template <class T>
class Decoder {
public:
    using A = accumulator_t<T>;

    /// Allocates weights and LoRA factors. `kernels` must outlive the object.
    Decoder(const Architecture& architecture, const DecoderSettings& settings, const kernels::KernelSet& kernels,
            const mpi::ProcessGrid& grid);
    Decoder(const Decoder&) = delete;  // layers refer to the architecture and the factors
    Decoder& operator=(const Decoder&) = delete;

    /// Reads the frozen weights: of the experts only this rank's slices of its own.
    void load(const WeightSource<T>& source);

    /// Hidden states after the last norm [T, H], in `tape`. With `save` the pass has dropout and can be followed by
    /// `backward`. Collective over the replica, and over the world where RoPE depends on the longest sequence.
    MatrixView<const T> forward(const ops::TokenBatch& batch, Tape<T>& tape, bool save);
    /// Accumulates LoRA gradients, given the gradient of the hidden states [T, H] and, unless it is empty, what the
    /// routers' softmax probabilities of every token and layer have besides [E]. Collective over the replica.
    void backward(const ops::TokenBatch& batch, const Tape<T>& tape, MatrixView<const A> grad_hidden,
                  std::span<const double> grad_probabilities = {});

    /// The language model head [V, H].
    [[nodiscard]] const ops::PackedWeights& head() const;
    [[nodiscard]] LoraParameters<A>& lora() noexcept { return lora_; }
    /// What the exchange of rows sent so far.
    [[nodiscard]] const ExchangeVolume& exchange_volume() const noexcept { return exchange_->volume(); }
    [[nodiscard]] const Architecture& architecture() const noexcept { return architecture_; }
    /// To be called after LoRA factors changed.
    void update_lora();

private:
    struct Layer {
        std::vector<A> input_norm;  // [H]
        std::unique_ptr<AttentionBlock<T>> attention;
        std::vector<A> feed_norm;  // [H]
        std::unique_ptr<FeedForward<T>> feed_forward;
    };

    /// The residual stream that enters a layer, or leaves the last one, and its norm.
    struct StreamPoint {
        Matrix<A>& stream;
        const std::vector<A>& weight;
        ops::NormOutput<T> norm;
    };
    StreamPoint entry_of(std::size_t layer, Tape<T>& tape, index_t rows, bool save);
    void start_dropout(const ops::TokenBatch& batch, bool save);
    void embed(const ops::TokenBatch& batch, MatrixView<A> out) const;

    const kernels::KernelSet& kernels_;
    Architecture architecture_;
    mpi::ProcessGrid grid_;
    LoraParameters<A> lora_;
    LoraShared<T> lora_shared_;
    std::shared_ptr<TokenExchange<T>> exchange_;
    ops::RotaryTable<A> rotary_;
    ops::PackedWeights embedding_;  // [V, H]
    ops::PackedWeights head_;       // [V, H], empty if tied
    std::vector<A> output_norm_;    // [H]
    std::vector<Layer> layers_;
    index_t lowest_trainable_ = 0;       ///< layers below have no LoRA factors: backward ends there
    std::vector<std::uint64_t> tokens_;  ///< [T], which token of the optimizer step each row is: for dropout
    AttentionScratch<T> attention_scratch_;
    Matrix<A> block_input_;   // [T, H] after a norm, before rounding to T
    Matrix<A> block_output_;  // [T, H]
    Matrix<A> grad_stream_;   // [T, H] gradient of the residual stream
    Matrix<A> grad_block_;    // [T, H] gradient of a block's normalised input
};

}  // namespace moesaic::model
