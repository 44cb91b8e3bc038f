// Parts of `config.json` that families share.
#pragma once

#include "model/families/architecture.hpp"
#include "model/families/configuration.hpp"

#include <functional>
#include <string>

namespace moesaic::model {

/// Sizes that every family has, the norm epsilon, and the head. All layers are MoE and see the whole sequence until
/// told otherwise.
[[nodiscard]] Architecture read_common(const Configuration& config);

/// What RoPE is applied to, unless the configuration says otherwise.
struct RopeDefaults {
    index_t head_size = 0;
    std::string head_size_key;         ///< for messages
    double partial_rotary_factor = 1;  ///< of the head that is rotated; other values are accepted only if it is below 1
};

/// Type, frequencies and scaling of RoPE.
[[nodiscard]] ops::RopeSettings read_rope(const Configuration& config, const RopeDefaults& defaults);

/// Grouped-query attention: heads, their size, and RoPE.
void read_grouped_attention(const Configuration& config, double partial_rotary_factor, Architecture& architecture);

/// Multi-head latent attention: sizes, biases, and RoPE of a part of each head.
void read_latent_attention(const Configuration& config, Architecture& architecture);

/// Sliding windows, if `enabled`: `sliding_window` for the layers that `layer_types` names, or that `slides` where it
/// is missing.
void read_windows(const Configuration& config, bool enabled, const std::function<bool(index_t layer)>& slides,
                  Architecture& architecture);
/// For families without sliding windows.
void refuse_windows(const Configuration& config, Architecture& architecture);

/// Number of experts under any of its names, experts per token, and the experts' intermediate size
/// under `intermediate_key`.
void read_experts(const Configuration& config, const std::string& intermediate_key, Architecture& architecture);

/// Groups of experts: `n_group` and `topk_group`.
void read_expert_groups(const Configuration& config, Architecture& architecture);

/// What the weights of the chosen experts are multiplied by: `routed_scaling_factor`.
[[nodiscard]] double read_router_scale(const Configuration& config);

/// The router of DeepSeek-V3 and GLM: sigmoid scores and a correction bias.
void read_deepseek_router(const Configuration& config, Architecture& architecture);

/// The layers of Qwen: `decoder_sparse_step` and `mlp_only_layers`.
void read_qwen_layers(const Configuration& config, Architecture& architecture);

/// The layers of DeepSeek and GLM: dense ones first, `first_k_dense_replace` of them, and the shared experts, whose
/// intermediate sizes add up.
void read_deepseek_layers(const Configuration& config, Architecture& architecture);

/// Throws if there are dense layers, but their size is missing.
void require_dense_size(const Configuration& config, const Architecture& architecture);

}  // namespace moesaic::model
