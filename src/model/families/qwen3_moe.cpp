#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_qwen3_moe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = ops::HeadNorm::head;
    attention.input_bias = attention.output_bias = config.get_or<bool>("attention_bias", false);
    read_windows(
        config, config.get_or<bool>("use_sliding_window", false), [](index_t) { return true; }, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_qwen_layers(config, architecture);
    architecture.router.normalize = config.get_or<bool>("norm_topk_prob", false);
    return architecture;
}

}  // namespace moesaic::model
