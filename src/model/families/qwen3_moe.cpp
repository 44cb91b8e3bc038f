#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_qwen3_moe(const nlohmann::json& config, const std::string& source) {
    Architecture architecture = read_common(config, source);
    read_grouped_attention(config, source, 1, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = HeadNorm::head;
    attention.input_bias = attention.output_bias = io::get_or<bool>(config, "attention_bias", false, source);
    read_windows(
        config, source, io::get_or<bool>(config, "use_sliding_window", false, source), [](index_t) { return true; },
        architecture);
    read_experts(config, source, "moe_intermediate_size", architecture);
    read_qwen_layers(config, source, architecture);
    architecture.router.normalize = io::get_or<bool>(config, "norm_topk_prob", false, source);
    return architecture;
}

}  // namespace moesaic::model
