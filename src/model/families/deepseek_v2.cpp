#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_deepseek_v2(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "scoring_func", "softmax", source);
    refuse_unless(config, "rope_interleave", true, source);
    Architecture architecture = read_common(config, source);
    read_latent_attention(config, source, architecture);
    read_experts(config, source, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, source, architecture);
    // norm_topk_prob is not read: transformers scales the weights in either case and never normalises them.
    architecture.router.scale = io::get_or<double>(config, "routed_scaling_factor", 1, source);
    const auto method = io::get_or<std::string>(config, "topk_method", "greedy", source);
    if (method == "group_limited_greedy") {
        read_expert_groups(config, source, architecture);
    } else {
        refuse_unless(config, "topk_method", "greedy", source);
    }
    return architecture;
}

}  // namespace moesaic::model
