// Work buffers that all blocks of a decoder share. They grow, and hold nothing from one call to the next.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/feed_forward/token_exchange.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/lora_linear.hpp"

#include <memory>

namespace moesaic::model {

/// Of attention. Sizes are those of the kind at hand; Rq, Rkv: compressed vectors of latent attention.
template <class Scalar>
struct AttentionScratch {
    using Sum = accumulator_t<Scalar>;
    Matrix<Sum> query;             // [T, heads * D], and its gradient
    Matrix<Sum> key;               // [T, kv_heads * D] the same
    Matrix<Sum> value;             // [T, kv_heads * Dv] the same
    Matrix<Sum> attended;          // [T, heads * Dv] where operands have two parts; its gradient; work of HeadTransform
    Matrix<Sum> latent;            // [T, Rq], or [T, Rkv + Dr]
    Matrix<Sum> expanded;          // [T, heads * (D - Dr + Dv)]
    Matrix<Scalar> grad_output;    // [T, H]
    Matrix<Scalar> grad_heads;     // [T, heads * Dv] of what is attended, and then [T, heads * D] of the query
    Matrix<Scalar> grad_key;       // [T, kv_heads * D]
    Matrix<Scalar> grad_value;     // [T, kv_heads * Dv]
    Matrix<Scalar> grad_latent;    // [T, Rq], or [T, Rkv + Dr]
    Matrix<Scalar> grad_expanded;  // [T, heads * (D - Dr + Dv)]
};

/// Gate and up projections of a gated network before the activation.
template <class Scalar>
struct GatedMlpState {
    Matrix<Scalar> gate;  // [T, I]
    Matrix<Scalar> up;    // [T, I]
};

/// Of gated networks: dense layers and shared experts.
template <class Scalar>
struct GatedMlpScratch {
    using Sum = accumulator_t<Scalar>;
    Matrix<Sum> gate;                  // [T, I]
    Matrix<Sum> up;                    // [T, I]
    Matrix<Sum> exact_activated;       // [T, I] where operands have two parts
    Matrix<Sum> grad_activated;        // [T, I]
    Matrix<Sum> input;                 // [T, H] where gate and up are computed again, from operands in two parts
    GatedMlpState<Scalar> recomputed;  // where gate and up are not kept
    Matrix<Scalar> activated;          // [T, I]
    Matrix<Scalar> grad_output;        // [T, H]
    Matrix<Scalar> grad_gate;          // [T, I]
    Matrix<Scalar> grad_up;            // [T, I]
};

/// Of MoE layers.
template <class Scalar>
struct RouterScratch {
    using Sum = accumulator_t<Scalar>;
    Matrix<Sum> grad_weights;         // [T, K]
    Matrix<Sum> grad_logits;          // [T, E]
    Matrix<Sum> shared_output;        // [T, H]
    Matrix<Sum> shared_grad_weights;  // [T, 1]
};

template <class Scalar>
struct Workspace {
    const kernels::KernelSet& kernels;
    TokenExchange<Scalar> exchange;
    std::shared_ptr<ops::ExpertWorkspace<Scalar>> experts = std::make_shared<ops::ExpertWorkspace<Scalar>>();
    ops::LinearScratch<Scalar> linear{};
    AttentionScratch<Scalar> attention{};
    GatedMlpScratch<Scalar> mlp{};
    RouterScratch<Scalar> router{};
};

}  // namespace moesaic::model
