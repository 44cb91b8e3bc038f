// The frozen decoder with LoRA on its projections: forward pass and exact backward pass.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/block.hpp"
#include "model/decoder_settings.hpp"
#include "model/families/architecture.hpp"
#include "model/tape.hpp"
#include "model/weights/weights.hpp"
#include "model/workspace.hpp"
#include "mpi/process_grid.hpp"
#include "ops/norm.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace moesaic::model {

/// This rank's place.
[[nodiscard]] GridPlace place_in(const mpi::ProcessGrid& grid);
/// BlockTape: the stream before a block.
[[nodiscard]] std::vector<ops::BufferPlan> plan_stream(const Architecture& architecture);
/// BlockTape: what its norm makes of it.
[[nodiscard]] std::vector<ops::BufferPlan> plan_norm(const Architecture& architecture);
/// What a tape and a decoder have once, whatever the blocks.
[[nodiscard]] std::vector<ops::BufferPlan> plan_decoder(const Architecture& architecture);

/// Scalar is the type of activations: bf16, float, or double (for gradient checks). Each rank passes its own sequences;
/// everything but the experts is replicated.
template <class Scalar>
class Decoder {
public:
    using Sum = accumulator_t<Scalar>;

    /// Allocates LoRA factors; frozen weights get their memory when they are loaded. `kernels` must outlive the object.
    Decoder(const Architecture& architecture, const DecoderSettings& settings, const kernels::KernelSet& kernels,
            const mpi::ProcessGrid& grid);
    Decoder(const Decoder&) = delete;  // blocks refer to the architecture and the adapters
    Decoder& operator=(const Decoder&) = delete;

    /// Reads the frozen weights: of the experts only this rank's slices of its own. `loaded` is called after each layer
    /// with the number of layers so far; what it throws ends the loading.
    void load(
        const WeightSource<Scalar>& source, const std::function<void(index_t layers)>& loaded = [](index_t) {});
    /// That of the source that the weights came from.
    [[nodiscard]] std::uint64_t weights_fingerprint() const noexcept { return weights_fingerprint_; }

    /// Hidden states after the last norm [T, H], in `tape`. With `save` the pass has dropout and can be followed by
    /// `backward`. Collective over the replica, and over the world where RoPE depends on the longest sequence.
    MatrixView<const Scalar> forward(const ops::TokenBatch& batch, Tape<Scalar>& tape, bool save);
    /// Accumulates LoRA gradients, given the gradient of the hidden states [T, H] of the saved pass on the tape and,
    /// unless it is empty, what the routers' softmax probabilities of every row and layer have besides [E]. The tape
    /// may be read again; the gradient becomes that of the residual stream, layer by layer. Collective over the
    /// replica.
    void backward(Tape<Scalar>& tape, MatrixView<Sum> gradient, std::span<const double> grad_probabilities = {});

    /// The language model head [V, H].
    [[nodiscard]] const ops::PackedWeights& head() const;
    [[nodiscard]] LoraParameters<Sum>& lora() noexcept { return lora_; }
    /// What the exchange of rows sent so far.
    [[nodiscard]] const ExchangeVolume& exchange_volume() const noexcept { return workspace_.exchange.volume(); }
    [[nodiscard]] const Architecture& architecture() const noexcept { return architecture_; }
    /// To be called after LoRA factors changed.
    void update_lora();

private:
    Decoder(const Architecture& architecture, const DecoderSettings& settings, const kernels::KernelSet& kernels,
            const mpi::ProcessGrid& grid, std::vector<LayerPlan> plans);

    /// A norm, and the block behind it.
    struct NormedBlock {
        std::vector<Sum> norm;  // [H]
        std::unique_ptr<Block<Scalar>> block;
    };

    void start_pass(const ops::TokenBatch& batch, bool save, Pass<Scalar>& pass);
    void embed(const ops::TokenBatch& batch, MatrixView<Sum> out) const;
    /// Whether backward goes through a block: those below have no adapters.
    [[nodiscard]] bool goes_back(const Pass<Scalar>& pass, std::size_t block) const {
        return pass.is_saved && block >= lowest_trainable_;
    }
    /// The first block of a layer that backward goes through.
    [[nodiscard]] std::size_t first_of_layer(std::size_t block) const {
        return std::max(block - block % 2, lowest_trainable_);
    }
    [[nodiscard]] KeptOfBlock kept_of(const Pass<Scalar>& pass, std::size_t block) const {
        return goes_back(pass, block) ? kept_of_block(activations_, block == first_of_layer(block)) : KeptOfBlock();
    }
    /// Before a block, or after the last one.
    Matrix<Sum>& stream_of(Tape<Scalar>& tape, std::size_t block) const;
    /// Of a block: where its state is, but for the stream.
    BlockTape<Scalar>& tape_of(Tape<Scalar>& tape, std::size_t block) const;
    BlockState<Scalar>& state_of(Tape<Scalar>& tape, std::size_t block) const;
    /// The norm of the stream before a block, or after the last one, and where it goes.
    struct Norm {
        const std::vector<Sum>& weight;
        ops::NormOutput<Scalar> output;
    };
    Norm norm_of(Tape<Scalar>& tape, std::size_t block);
    /// From the stream before block `first` to that before block `end`, both with their norms. `load` may be null.
    void run_blocks(Tape<Scalar>& tape, std::size_t first, std::size_t end, RouterLoad* load);
    void run_block(Tape<Scalar>& tape, std::size_t block, MatrixView<Sum> output, RouterLoad* load);
    /// Computes the states of a layer again, which ends with block `last`.
    void recompute(Tape<Scalar>& tape, std::size_t last);

    const kernels::KernelSet& kernels_;
    Architecture architecture_;
    mpi::ProcessGrid grid_;
    ops::Activations activations_;
    LoraParameters<Sum> lora_;
    Workspace<Scalar> workspace_;
    std::shared_ptr<const ops::RotaryTable<Sum>> rotary_;
    ops::PackedWeights embedding_;     // [V, H]
    ops::PackedWeights head_;          // [V, H], empty if tied
    std::vector<Sum> output_norm_;     // [H]
    std::vector<NormedBlock> blocks_;  ///< mixer and feed-forward of each layer
    std::size_t lowest_trainable_ = 0;
    std::uint64_t weights_fingerprint_ = 0;
    Matrix<Sum> block_input_;   // [T, H] after a norm, before rounding to Scalar
    Matrix<Sum> block_output_;  // [T, H]; in backward the gradient of a block's normalised input
};

}  // namespace moesaic::model
