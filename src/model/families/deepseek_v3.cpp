#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_deepseek_v3(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "scoring_func", "sigmoid", source);
    refuse_unless(config, "topk_method", "noaux_tc", source);
    Architecture architecture = read_common(config, source);
    read_latent_attention(config, source, architecture);
    read_experts(config, source, "moe_intermediate_size", architecture);
    read_deepseek_layers(config, source, architecture);
    read_deepseek_router(config, source, architecture);
    return architecture;
}

}  // namespace moesaic::model
