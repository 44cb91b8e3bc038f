#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_deepseek_v3() {
    return {.required = {"moe_intermediate_size"},
            .defaults = {{"num_key_value_heads", nullptr},
                         {"max_position_embeddings", 4096},
                         {"rms_norm_eps", 1e-6},
                         {"attention_bias", false},
                         {"q_lora_rank", 1536},
                         {"kv_lora_rank", 512},
                         {"qk_nope_head_dim", 128},
                         {"qk_rope_head_dim", 64},
                         {"qk_head_dim", nullptr},
                         {"v_head_dim", 128},
                         {"rope_interleave", true},
                         {"first_k_dense_replace", 3},
                         {"n_shared_experts", 1},
                         {"num_shared_experts", nullptr},
                         {"n_group", 8},
                         {"topk_group", 4},
                         {"norm_topk_prob", true},
                         {"routed_scaling_factor", 2.5}},
            .only = {{"scoring_func", "sigmoid"}, {"topk_method", "noaux_tc"}, {"use_mla", true}},
            .ignored = {}};
}

Architecture read_deepseek_v3(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_latent_attention(config, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    read_deepseek_router(config, architecture);
    return architecture;
}

}  // namespace moesaic::model
