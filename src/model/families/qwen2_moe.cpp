#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_qwen2_moe(const nlohmann::json& config, const std::string& source) {
    Architecture architecture = read_common(config, source);
    read_grouped_attention(config, source, 1, architecture);
    architecture.attention.input_bias = io::get_or<bool>(config, "qkv_bias", true, source);
    refuse_unless(config, "attention_bias", false, source);
    const index_t limit = io::get_size_or(config, "max_window_layers", architecture.layers, source, 0);
    read_windows(
        config, source, io::get_or<bool>(config, "use_sliding_window", false, source),
        [limit](index_t layer) { return layer % 2 == 0 && layer < limit; }, architecture);
    read_experts(config, source, "moe_intermediate_size", architecture);
    read_qwen_layers(config, source, architecture);
    architecture.router.normalize = io::get_or<bool>(config, "norm_topk_prob", false, source);
    architecture.shared = {io::get_size(config, "shared_expert_intermediate_size", source), true};
    architecture.names.shared = "mlp.shared_expert";
    architecture.names.shared_gate = "mlp.shared_expert_gate";
    return architecture;
}

}  // namespace moesaic::model
