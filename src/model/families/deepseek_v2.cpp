#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_deepseek_v2() {
    return {.required = {"moe_intermediate_size"},
            .defaults = {{"num_key_value_heads", nullptr},
                         {"max_position_embeddings", 2048},
                         {"rms_norm_eps", 1e-6},
                         {"attention_bias", false},
                         {"q_lora_rank", 1536},
                         {"kv_lora_rank", 512},
                         {"qk_nope_head_dim", 128},
                         {"qk_rope_head_dim", 64},
                         {"qk_head_dim", nullptr},
                         {"v_head_dim", 128},
                         {"rope_interleave", true},
                         {"first_k_dense_replace", 0},
                         {"n_shared_experts", 2},
                         {"num_shared_experts", nullptr},
                         {"topk_method", "greedy"},
                         {"n_group", nullptr},
                         {"topk_group", nullptr},
                         {"routed_scaling_factor", 1.0}},
            .only = {{"scoring_func", "softmax"}, {"rope_interleave", true}, {"use_mla", true}},
            // transformers scales the weights in either case and never normalises them.
            .ignored = {"norm_topk_prob"}};
}

Architecture read_deepseek_v2(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_latent_attention(config, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    architecture.router.scale = read_router_scale(config);
    if (config.get_or<std::string>("topk_method", "greedy") == "group_limited_greedy") {
        read_expert_groups(config, architecture);
    } else {
        config.refuse_unless("topk_method", "greedy");
    }
    return architecture;
}

}  // namespace moesaic::model
