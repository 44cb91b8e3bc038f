#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_glm4_moe(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "scoring_func", "sigmoid", source);
    refuse_unless(config, "topk_method", "noaux_tc", source);
    Architecture architecture = read_common(config, source);
    constexpr double partial_rotary_factor = 0.5;  // transformers' default for this family
    read_grouped_attention(config, source, partial_rotary_factor, architecture);
    refuse_windows(config, source, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = io::get_or<bool>(config, "use_qk_norm", false, source) ? HeadNorm::head : HeadNorm::none;
    attention.input_bias = io::get_or<bool>(config, "attention_bias", false, source);
    read_experts(config, source, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, source, architecture);
    read_deepseek_router(config, source, architecture);
    return architecture;
}

}  // namespace moesaic::model
