#include "model/families/common.hpp"
#include "model/families/families.hpp"

#include <limits>

namespace moesaic::model {

io::KnownKeys keys_of_olmoe() {
    return {.required = {},
            .defaults = {{"num_key_value_heads", nullptr},
                         {"max_position_embeddings", 4096},
                         {"rms_norm_eps", 1e-5},
                         {"attention_bias", false},
                         {"clip_qkv", nullptr},
                         {"norm_topk_prob", false}},
            .only = {},
            .ignored = {}};
}

Architecture read_olmoe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    refuse_windows(config, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = ops::HeadNorm::all_heads;
    attention.input_bias = attention.output_bias = config.get_flag("attention_bias");
    attention.clip = config.has("clip_qkv") ? config.get_number("clip_qkv", 0, std::numeric_limits<float>::max()) : 0;
    read_experts(config, "intermediate_size", architecture);
    architecture.router.normalize = config.get_flag("norm_topk_prob");
    return architecture;
}

}  // namespace moesaic::model
