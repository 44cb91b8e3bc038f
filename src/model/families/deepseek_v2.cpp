#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_deepseek_v2(const Configuration& config) {
    config.refuse_unless("scoring_func", "softmax");
    config.refuse_unless("rope_interleave", true);
    Architecture architecture = read_common(config);
    read_latent_attention(config, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    // norm_topk_prob is not read: transformers scales the weights in either case and never normalises them.
    architecture.router.scale = config.get_or<double>("routed_scaling_factor", 1);
    const auto method = config.get_or<std::string>("topk_method", "greedy");
    if (method == "group_limited_greedy") {
        read_expert_groups(config, architecture);
    } else {
        config.refuse_unless("topk_method", "greedy");
    }
    return architecture;
}

}  // namespace moesaic::model
