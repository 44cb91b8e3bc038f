#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

io::KnownKeys keys_of_qwen3_moe() {
    return {.required = {"moe_intermediate_size"},
            .defaults = {{"num_key_value_heads", 4},
                         {"max_position_embeddings", 32768},
                         {"rms_norm_eps", 1e-6},
                         {"attention_bias", false},
                         {"use_sliding_window", false},
                         {"sliding_window", 4096},
                         {"decoder_sparse_step", 1},
                         {"mlp_only_layers", nullptr},
                         {"norm_topk_prob", false}},
            .only = {{"use_qk_norm", true}},
            .ignored = {}};
}

Architecture read_qwen3_moe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = ops::HeadNorm::head;
    attention.input_bias = attention.output_bias = config.get_flag("attention_bias");
    read_windows(
        config, config.get_flag("use_sliding_window"), [](index_t) { return true; }, architecture);
    read_experts(config, "moe_intermediate_size", architecture);
    read_qwen_layers(config, architecture);
    architecture.router.normalize = config.get_flag("norm_topk_prob");
    return architecture;
}

}  // namespace moesaic::model
