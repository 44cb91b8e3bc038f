// The gated feed-forward network of dense layers and shared experts: down(silu(gate(x)) * up(x)).
#pragma once

#include "model/adapters/lora_linear.hpp"
#include "model/families/architecture.hpp"
#include "model/tape.hpp"
#include "ops/expert_workspace.hpp"

#include <memory>
#include <string>

namespace moesaic::model {

/// Work buffers that these networks share.
template <class T>
struct GatedMlpScratch {
    Matrix<accumulator_t<T>> gate;            // [T, I]
    Matrix<accumulator_t<T>> up;              // [T, I]
    Matrix<accumulator_t<T>> wide_activated;  // [T, I]
    Matrix<accumulator_t<T>> grad_activated;  // [T, I]
    Matrix<accumulator_t<T>> input;           // [T, H] where gate and up are computed again
    GatedMlpTape<T> recomputed;               // where gate and up are not kept
    Matrix<T> activated;                      // [T, I] in backward
    Matrix<T> grad_output;                    // [T, H]
    Matrix<T> grad_gate;                      // [T, I]
    Matrix<T> grad_up;                        // [T, I]
    Matrix<accumulator_t<T>> output;          // [T, H] of shared experts
};

/// Factors on the rows of a network's output [T], and their gradients; null for 1.
template <class A>
struct RowWeights {
    const A* values = nullptr;
    A* gradients = nullptr;
};

/// Replicated on all ranks; works on this rank's tokens.
template <class T>
class GatedMlp {
public:
    using A = accumulator_t<T>;

    /// `folder` is where its projections are in the checkpoint, for example "model.layers.0.mlp".
    GatedMlp(const std::string& folder, const Architecture& architecture, index_t intermediate, LoraTarget target,
             ops::Activations activations, const LoraLayer<T>& lora, std::shared_ptr<GatedMlpScratch<T>> scratch);
    void load(const WeightSource<T>& source);
    [[nodiscard]] bool is_trainable() const noexcept;
    /// To be called after the factors changed.
    void update_lora();

    /// [T, H] to [T, H]; row t of the output is multiplied by weights[t] unless that is null.
    void forward(MatrixView<const A> x, GatedMlpTape<T>& tape, MatrixView<A> output, const A* weights = nullptr);
    /// Accumulates LoRA gradients, and writes grad_x, or adds to it if `accumulate`, unless it is empty.
    void backward(MatrixView<const T> x,            // [T, H] as in forward, rounded
                  const GatedMlpTape<T>& tape,      //
                  MatrixView<const A> grad_output,  // [T, H]
                  MatrixView<A> grad_x,             // [T, H] or empty
                  bool accumulate = false, const RowWeights<A>& weights = {});

private:
    /// Gate and up of x [T, H] in the scratch.
    void project_up(MatrixView<const A> x);
    void keep(GatedMlpTape<T>& tape) const;

    bool retain_;
    const kernels::KernelSet& kernels_;
    std::shared_ptr<GatedMlpScratch<T>> scratch_;
    LoraLinear<T> gate_;  // H to I
    LoraLinear<T> up_;    // H to I
    LoraLinear<T> down_;  // I to H
};

}  // namespace moesaic::model
