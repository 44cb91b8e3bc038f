// The gated feed-forward network of dense layers and shared experts: down(silu(gate(x)) * up(x)).
#pragma once

#include "model/pass.hpp"
#include "model/workspace.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/lora_linear.hpp"

#include <span>

namespace moesaic::model {

/// Scales of the rows of a network's output [T], and their gradients; null for 1.
template <class Sum>
struct RowWeights {
    const Sum* values = nullptr;
    Sum* gradients = nullptr;
};

/// Replicated on all ranks; works on this rank's rows. Its projections belong to the block that it is a part of.
template <class Scalar>
class GatedMlp {
public:
    using Sum = accumulator_t<Scalar>;

    GatedMlp(ops::Activations activations, Workspace<Scalar>& workspace)
        : retain_(activations != ops::Activations::recompute), workspace_(workspace) {}

    /// [T, H] to [T, H], or to `state` alone if the output has no columns; row t of the output is multiplied by
    /// weights[t] unless that is null. `projections` are gate, up [I, H] and down [H, I].
    void forward(const Pass<Scalar>& pass, std::span<const ops::LoraLinear<Scalar>, 3> projections,
                 const ops::RoundedRows<Scalar>& x, GatedMlpState<Scalar>& state, MatrixView<Sum> output,
                 const Sum* weights = nullptr) const;
    /// Accumulates LoRA gradients, and writes grad_x, or adds to it if `accumulate`, unless it is empty.
    void backward(const Pass<Scalar>& pass, std::span<const ops::LoraLinear<Scalar>, 3> projections,
                  MatrixView<const Scalar> x,          // [T, H] as in forward, rounded
                  const GatedMlpState<Scalar>& state,  //
                  MatrixView<const Sum> grad_output,   // [T, H]
                  MatrixView<Sum> grad_x,              // [T, H] or empty
                  bool accumulate = false, const RowWeights<Sum>& weights = {}) const;

private:
    /// Gate and up of x [T, H] in the scratch.
    void project_up(const Pass<Scalar>& pass, std::span<const ops::LoraLinear<Scalar>, 3> projections,
                    const ops::RoundedRows<Scalar>& x) const;
    void keep(GatedMlpState<Scalar>& state) const;

    bool retain_;
    Workspace<Scalar>& workspace_;
};

}  // namespace moesaic::model
