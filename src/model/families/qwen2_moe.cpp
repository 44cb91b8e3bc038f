#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_qwen2_moe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    architecture.attention.input_bias = config.get_or<bool>("qkv_bias", true);
    config.refuse_unless("attention_bias", false);
    constexpr index_t default_limit = 28;  // of transformers
    const index_t limit = config.get_size_or("max_window_layers", default_limit, 0);
    read_windows(
        config, config.get_or<bool>("use_sliding_window", false),
        [limit](index_t layer) { return layer % 2 == 0 && layer < limit; }, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_qwen_layers(config, architecture);
    architecture.router.normalize = config.get_or<bool>("norm_topk_prob", false);
    architecture.shared = {config.get_size("shared_expert_intermediate_size"), true};
    architecture.names.shared = "mlp.shared_expert";
    architecture.names.shared_gate = "mlp.shared_expert_gate";
    return architecture;
}

}  // namespace moesaic::model
