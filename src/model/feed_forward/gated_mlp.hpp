// The gated feed-forward network of dense layers and shared experts: down(silu(gate(x)) * up(x)).
#pragma once

#include "model/pass.hpp"
#include "model/workspace.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/lora_linear.hpp"

#include <span>

namespace moesaic::model {

/// Scales of the rows of a network's output [T], and their gradients; null for 1.
template <class A>
struct RowWeights {
    const A* values = nullptr;
    A* gradients = nullptr;
};

/// Replicated on all ranks; works on this rank's rows. Its projections belong to the block that it is a part of.
template <class T>
class GatedMlp {
public:
    using A = accumulator_t<T>;

    GatedMlp(ops::Activations activations, Workspace<T>& workspace)
        : retain_(activations == ops::Activations::retain), workspace_(workspace) {}

    /// [T, H] to [T, H]; row t of the output is multiplied by weights[t] unless that is null. `projections` are gate,
    /// up [I, H] and down [H, I].
    void forward(const Pass<T>& pass, std::span<const ops::LoraLinear<T>, 3> projections, MatrixView<const A> x,
                 GatedMlpState<T>& state, MatrixView<A> output, const A* weights = nullptr) const;
    /// Accumulates LoRA gradients, and writes grad_x, or adds to it if `accumulate`, unless it is empty.
    void backward(const Pass<T>& pass, std::span<const ops::LoraLinear<T>, 3> projections,
                  MatrixView<const T> x,            // [T, H] as in forward, rounded
                  const GatedMlpState<T>& state,    //
                  MatrixView<const A> grad_output,  // [T, H]
                  MatrixView<A> grad_x,             // [T, H] or empty
                  bool accumulate = false, const RowWeights<A>& weights = {}) const;

private:
    /// Gate and up of x [T, H] in the scratch.
    void project_up(const Pass<T>& pass, std::span<const ops::LoraLinear<T>, 3> projections,
                    MatrixView<const A> x) const;
    void keep(GatedMlpState<T>& state) const;

    bool retain_;
    Workspace<T>& workspace_;
};

}  // namespace moesaic::model
