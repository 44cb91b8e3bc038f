#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_qwen2_moe() {
    return {.required = {"moe_intermediate_size", "shared_expert_intermediate_size"},
            .defaults = {{"num_key_value_heads", 16},
                         {"max_position_embeddings", 32768},
                         {"rms_norm_eps", 1e-6},
                         {"qkv_bias", true},
                         {"use_sliding_window", false},
                         {"sliding_window", 4096},
                         {"max_window_layers", 28},
                         {"decoder_sparse_step", 1},
                         {"mlp_only_layers", nullptr},
                         {"norm_topk_prob", false}},
            .only = {},
            .ignored = {}};
}

Architecture read_qwen2_moe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    architecture.attention.input_bias = config.get_flag("qkv_bias");
    const index_t limit = config.get_size("max_window_layers", 0);
    read_windows(
        config, config.get_flag("use_sliding_window"),
        [limit](index_t layer) { return layer % 2 == 0 && layer < limit; }, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_qwen_layers(config, architecture);
    architecture.router.normalize = config.get_flag("norm_topk_prob");
    architecture.shared = {config.get_size("shared_expert_intermediate_size"), true};
    architecture.names.shared = "mlp.shared_expert";
    architecture.names.shared_gate = "mlp.shared_expert_gate";
    return architecture;
}

}  // namespace moesaic::model
