#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_glm4_moe(const Configuration& config) {
    config.refuse_unless("scoring_func", "sigmoid");
    config.refuse_unless("topk_method", "noaux_tc");
    Architecture architecture = read_common(config);
    constexpr double partial_rotary_factor = 0.5;  // transformers' default for this family
    read_grouped_attention(config, partial_rotary_factor, architecture);
    refuse_windows(config, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = config.get_or<bool>("use_qk_norm", false) ? ops::HeadNorm::head : ops::HeadNorm::none;
    attention.input_bias = config.get_or<bool>("attention_bias", false);
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    read_deepseek_router(config, architecture);
    return architecture;
}

}  // namespace moesaic::model
