// config.json of a small model of every family, with odd sizes on purpose.
#pragma once

#include "model/families/architecture.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moesaic::test {

/// Three layers, the first of them dense where the family can have that.
inline nlohmann::json small_config(const std::string& family) {
    nlohmann::json config = {{"model_type", family},          {"hidden_act", "silu"},        {"hidden_size", 18},
                             {"intermediate_size", 11},       {"num_hidden_layers", 3},      {"vocab_size", 29},
                             {"num_attention_heads", 4},      {"num_key_value_heads", 2},    {"head_dim", 6},
                             {"max_position_embeddings", 64}, {"rms_norm_eps", 1e-6},        {"rope_theta", 100.0},
                             {"num_experts_per_tok", 2},      {"tie_word_embeddings", false}};
    const auto add = [&](const nlohmann::json& more) { config.update(more); };
    if (family == "mixtral" || family == "olmoe") {
        add({{family == "mixtral" ? "num_local_experts" : "num_experts", 5}, {"intermediate_size", 10}});
        return config;
    }
    add({{"moe_intermediate_size", 10}});
    if (family == "qwen2_moe" || family == "qwen3_moe") {
        add({{"num_experts", 5}, {"norm_topk_prob", true}, {"mlp_only_layers", {0}}});
        if (family == "qwen2_moe") {
            add({{"shared_expert_intermediate_size", 7}});
        }
        return config;
    }
    add({{"n_routed_experts", 6},
         {"n_shared_experts", 2},
         {"first_k_dense_replace", 1},
         {"n_group", 3},
         {"topk_group", 2},
         {"routed_scaling_factor", 1.7}});
    if (family == "glm4_moe") {
        add({{"attention_bias", true}, {"use_qk_norm", true}, {"head_dim", 8}, {"partial_rotary_factor", 0.5}});
        return config;
    }
    config.erase("head_dim");
    add({{"num_key_value_heads", 4},
         {"qk_nope_head_dim", 5},
         {"qk_rope_head_dim", 4},
         {"v_head_dim", 3},
         {"q_lora_rank", 7},
         {"kv_lora_rank", 9}});
    if (family == "deepseek_v2") {
        add({{"topk_method", "group_limited_greedy"}});
    }
    return config;
}

/// All families that there are.
inline std::vector<std::string> family_names() {
    std::vector<std::string> names;
    for (const model::Family& family : model::families()) {
        names.push_back(family.model_type);
    }
    return names;
}

/// A configuration as the reader of its family understands it.
inline model::Architecture read_config(const nlohmann::json& config) {
    return model::read_architecture(config, "config.json");
}

inline model::Architecture small_architecture(const std::string& family = "qwen3_moe") {
    return read_config(small_config(family));
}

}  // namespace moesaic::test
