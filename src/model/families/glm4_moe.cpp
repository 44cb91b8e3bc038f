#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_glm4_moe() {
    return {.required = {"moe_intermediate_size"},
            .defaults = {{"num_key_value_heads", 8},
                         {"max_position_embeddings", 131072},
                         {"rms_norm_eps", 1e-5},
                         {"partial_rotary_factor", 0.5},
                         {"attention_bias", false},
                         {"use_qk_norm", false},
                         {"first_k_dense_replace", 1},
                         {"n_shared_experts", 1},
                         {"num_shared_experts", nullptr},
                         {"n_group", 1},
                         {"topk_group", 1},
                         {"norm_topk_prob", true},
                         {"routed_scaling_factor", 1.0}},
            .only = {{"scoring_func", "sigmoid"}, {"topk_method", "noaux_tc"}},
            .ignored = {}};
}

Architecture read_glm4_moe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, config.get<double>("partial_rotary_factor"), architecture);
    refuse_windows(config, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = config.get_flag("use_qk_norm") ? ops::HeadNorm::head : ops::HeadNorm::none;
    attention.input_bias = config.get_flag("attention_bias");
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    read_deepseek_router(config, architecture);
    return architecture;
}

}  // namespace moesaic::model
