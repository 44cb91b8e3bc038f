// The shared expert of a MoE layer: a network that every token goes through, beside the routed experts.
#pragma once

#include "model/feed_forward/gated_mlp.hpp"

#include <memory>

namespace moesaic::model {

/// Replicated on all ranks; works on this rank's tokens. Where the architecture says so, its output is multiplied by
/// the sigmoid of a frozen projection of the input to one number.
template <class T>
class SharedExpert {
public:
    using A = accumulator_t<T>;

    SharedExpert(const Architecture& architecture, index_t layer, ops::Activations activations,
                 const LoraLayer<T>& lora, std::shared_ptr<GatedMlpScratch<T>> scratch);
    void load(const WeightSource<T>& source);
    [[nodiscard]] bool is_trainable() const noexcept { return mlp_.is_trainable(); }
    /// To be called after the factors changed.
    void update_lora() { mlp_.update_lora(); }

    /// Adds to output [T, H]. `wide_input` [T, H] is tape.feed_input before it was rounded to T.
    void forward(MatrixView<const A> wide_input, LayerTape<T>& tape, MatrixView<A> output);
    /// Accumulates LoRA gradients, and adds to grad_input [T, H] unless it is empty.
    void backward(const LayerTape<T>& tape, MatrixView<const A> grad_output, MatrixView<A> grad_input);

private:
    [[nodiscard]] bool is_gated() const { return !gate_.flat().empty(); }

    const kernels::KernelSet& kernels_;
    std::string gate_name_;
    std::shared_ptr<GatedMlpScratch<T>> scratch_;
    GatedMlp<T> mlp_;
    Matrix<A> gate_;          // [1, H], or empty
    Matrix<A> grad_weights_;  // [T, 1]
};

}  // namespace moesaic::model
