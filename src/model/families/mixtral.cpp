#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_mixtral(const Configuration& config) {
    config.refuse_unless("router_jitter_noise", 0.0);
    config.refuse_unless("attention_bias", false);
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    read_windows(
        config, config.has("sliding_window"), [](index_t) { return true; }, architecture);
    read_experts(config, "intermediate_size", architecture);
    architecture.router.normalize = true;
    architecture.names.router = "block_sparse_moe.gate";
    architecture.names.expert = "block_sparse_moe.experts.{}";
    architecture.names.gate = "w1";
    architecture.names.up = "w3";
    architecture.names.down = "w2";
    return architecture;
}

}  // namespace moesaic::model
