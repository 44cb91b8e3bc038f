// Work buffers that all blocks of a decoder share. They grow, and hold nothing from one call to the next.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/feed_forward/token_exchange.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/lora_linear.hpp"

#include <memory>

namespace moesaic::model {

/// Of attention. Sizes are those of the kind at hand; Rq, Rkv: compressed vectors of latent attention.
template <class T>
struct AttentionScratch {
    using A = accumulator_t<T>;
    Matrix<A> query;          // [T, heads * D], and its gradient
    Matrix<A> key;            // [T, kv_heads * D] the same
    Matrix<A> value;          // [T, kv_heads * Dv] the same
    Matrix<A> attended;       // [T, heads * Dv] the same
    Matrix<A> latent;         // [T, Rq], or [T, Rkv + Dr]
    Matrix<A> expanded;       // [T, heads * (D - Dr + Dv)]
    Matrix<A> work;           // of HeadTransform
    Matrix<T> grad_output;    // [T, H]
    Matrix<T> grad_attended;  // [T, heads * Dv]
    Matrix<T> grad_query;     // [T, heads * D]
    Matrix<T> grad_key;       // [T, kv_heads * D]
    Matrix<T> grad_value;     // [T, kv_heads * Dv]
    Matrix<T> grad_latent;    // [T, Rq], or [T, Rkv + Dr]
    Matrix<T> grad_expanded;  // [T, heads * (D - Dr + Dv)]
};

/// Gate and up projections of a gated network before the activation.
template <class T>
struct GatedMlpState {
    Matrix<T> gate;  // [T, I]
    Matrix<T> up;    // [T, I]
};

/// Of gated networks: dense layers and shared experts.
template <class T>
struct GatedMlpScratch {
    using A = accumulator_t<T>;
    Matrix<A> gate;               // [T, I]
    Matrix<A> up;                 // [T, I]
    Matrix<A> wide_activated;     // [T, I]
    Matrix<A> grad_activated;     // [T, I]
    Matrix<A> input;              // [T, H] where gate and up are computed again
    GatedMlpState<T> recomputed;  // where gate and up are not kept
    Matrix<T> activated;          // [T, I] in backward
    Matrix<T> grad_output;        // [T, H]
    Matrix<T> grad_gate;          // [T, I]
    Matrix<T> grad_up;            // [T, I]
};

/// Of MoE layers.
template <class T>
struct RouterScratch {
    using A = accumulator_t<T>;
    Matrix<A> grad_weights;         // [T, K]
    Matrix<A> grad_logits;          // [T, E]
    Matrix<A> shared_output;        // [T, H]
    Matrix<A> shared_grad_weights;  // [T, 1]
};

template <class T>
struct Workspace {
    const kernels::KernelSet& kernels;
    TokenExchange<T> exchange;
    std::shared_ptr<ops::ExpertWorkspace<T>> experts = std::make_shared<ops::ExpertWorkspace<T>>();
    ops::LinearScratch<T> linear{};
    AttentionScratch<T> attention{};
    GatedMlpScratch<T> mlp{};
    RouterScratch<T> router{};
};

}  // namespace moesaic::model
