#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_deepseek_v3(const Configuration& config) {
    config.refuse_unless("scoring_func", "sigmoid");
    config.refuse_unless("topk_method", "noaux_tc");
    Architecture architecture = read_common(config);
    read_latent_attention(config, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, architecture);
    read_deepseek_router(config, architecture);
    return architecture;
}

}  // namespace moesaic::model
