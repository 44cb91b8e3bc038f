// The feed-forward part of a decoder layer: dense, or a mixture of experts shared by a replica.
#pragma once

#include "kernels/gemm.hpp"
#include "model/adapters/expert_parameters.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/families/architecture.hpp"
#include "model/feed_forward/gated_mlp.hpp"
#include "model/feed_forward/shared_expert.hpp"
#include "model/feed_forward/token_exchange.hpp"
#include "model/tape.hpp"
#include "model/weights/weights.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_backend.hpp"

#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::model {

/// What a decoder is built for, besides its architecture.
struct DecoderSettings {
    LoraSettings lora;
    ops::Activations activations = ops::Activations::retain;
    index_t max_tokens = 0;           ///< bound of the rows of all ranks in one pass
    bool keep_probabilities = false;  ///< of the routers, for the auxiliary loss
    index_t chunks = 0;               ///< in which rows travel to experts; 0: automatic_chunks

    void declare_activations(core::OptionSet& set);
    void declare_chunks(core::OptionSet& set);
};

/// Maps tape.feed_input [T, H] to [T, H].
template <class T>
class FeedForward {
public:
    using A = accumulator_t<T>;

    virtual ~FeedForward() = default;
    FeedForward(const FeedForward&) = delete;
    FeedForward& operator=(const FeedForward&) = delete;

    virtual void load(const WeightSource<T>& source) = 0;
    /// output [T, H]; keeps what backward needs if `save`. `input` is tape.feed_input before it was rounded to T, for
    /// what needs all its digits. Collective over the replica for MoE layers.
    virtual void forward(MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output, bool save) = 0;
    /// Overwrites grad_input [T, H], unless it has no columns; accumulates LoRA gradients. `grad_probabilities` [E], or
    /// empty, is what a router's softmax probabilities of every token have as gradient besides. Collective as forward.
    virtual void backward(const LayerTape<T>& tape, MatrixView<const A> grad_output,
                          std::span<const A> grad_probabilities, MatrixView<A> grad_input) = 0;
    [[nodiscard]] virtual bool is_trainable() const noexcept = 0;
    /// To be called after the optimizer changed LoRA factors.
    virtual void update_lora() = 0;

protected:
    FeedForward() = default;
};

/// A dense layer: one gated network, replicated.
template <class T>
class DenseFeedForward final : public FeedForward<T> {
public:
    using A = accumulator_t<T>;

    explicit DenseFeedForward(GatedMlp<T> mlp) : mlp_(std::move(mlp)) {}
    void load(const WeightSource<T>& source) override { mlp_.load(source); }
    void forward(MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output, bool) override {
        mlp_.forward(input, tape.mlp, output);
    }
    void backward(const LayerTape<T>& tape, MatrixView<const A> grad_output, std::span<const A>,
                  MatrixView<A> grad_input) override {
        mlp_.backward(tape.feed_input, tape.mlp, grad_output, grad_input);
    }
    [[nodiscard]] bool is_trainable() const noexcept override { return mlp_.is_trainable(); }
    void update_lora() override { mlp_.update_lora(); }

private:
    GatedMlp<T> mlp_;
};

/// Work buffers of routers' backward passes, which MoE layers share.
template <class T>
struct RouterScratch {
    using A = accumulator_t<T>;
    Matrix<A> grad_weights;  // [T, K]
    Matrix<A> grad_logits;   // [T, E]
};

/// Router, routed experts and, beside them, a shared one. Each rank of a replica holds slices of some of the experts:
/// rows go to the ranks that hold their experts, each rank computes its share of every result, and sums return to the
/// rows' owners.
template <class T>
class MoeLayer final : public FeedForward<T> {
public:
    using A = accumulator_t<T>;

    /// Declares its LoRA tensors in `parameters`, to which the layer keeps references. `shared` may be null.
    MoeLayer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
             const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, LoraParameters<A>& parameters,
             std::shared_ptr<ops::ExpertWorkspace<T>> workspace, std::shared_ptr<TokenExchange<T>> exchange,
             std::shared_ptr<RouterScratch<T>> router_scratch, std::unique_ptr<SharedExpert<T>> shared);
    void load(const WeightSource<T>& source) override;
    void forward(MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output, bool save) override;
    void backward(const LayerTape<T>& tape, MatrixView<const A> grad_output, std::span<const A> grad_probabilities,
                  MatrixView<A> grad_input) override;
    [[nodiscard]] bool is_trainable() const noexcept override {
        return !experts_->config().skip_lora || (shared_ && shared_->is_trainable());
    }
    void update_lora() override;

private:
    void route(LayerTape<T>& tape, MatrixView<const A> input);
    /// Adds what the routing weights' gradients, in the scratch, and those of probabilities say about the input.
    void route_backward(const LayerTape<T>& tape, std::span<const A> grad_probabilities, MatrixView<A> grad_input);

    const Architecture& architecture_;
    index_t layer_;
    const kernels::KernelSet& kernels_;
    ExpertPart part_;
    bool keeps_probabilities_;
    std::shared_ptr<TokenExchange<T>> exchange_;
    std::shared_ptr<RouterScratch<T>> router_scratch_;
    std::unique_ptr<ops::ExpertBackend<T>> experts_;
    std::unique_ptr<SharedExpert<T>> shared_;
    std::vector<A> correction_bias_;  // [E] or empty
    /// [E, H], and used, in the accumulator's type: the choice of experts is not continuous, so rounding the logits to
    /// T would send tokens to other experts than FP32 does.
    Matrix<A> router_weight_;
};

}  // namespace moesaic::model
