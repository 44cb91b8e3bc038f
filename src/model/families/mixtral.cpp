#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_mixtral() {
    return {.required = {},
            .defaults = {{"num_key_value_heads", 8},
                         {"max_position_embeddings", 131072},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 1e6},
                         {"sliding_window", nullptr}},
            .only = {{"norm_topk_prob", true}},
            .ignored = {}};
}

Architecture read_mixtral(const Configuration& config) {
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
