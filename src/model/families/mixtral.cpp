#include <nlohmann/json.hpp>

#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_mixtral(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "router_jitter_noise", 0.0, source);
    refuse_unless(config, "attention_bias", false, source);
    Architecture architecture = read_common(config, source);
    read_grouped_attention(config, source, 1, architecture);
    const bool has_window = config.contains("sliding_window") && !config["sliding_window"].is_null();
    read_windows(
        config, source, has_window, [](index_t) { return true; }, architecture);
    read_experts(config, source, "intermediate_size", architecture);
    architecture.router.normalize = true;
    architecture.names.router = "block_sparse_moe.gate";
    architecture.names.expert = "block_sparse_moe.experts.{}";
    architecture.names.gate = "w1";
    architecture.names.up = "w3";
    architecture.names.down = "w2";
    return architecture;
}

}  // namespace moesaic::model
