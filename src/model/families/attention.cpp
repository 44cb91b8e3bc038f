#include "core/error.hpp"
#include "model/families/common.hpp"

#include <cmath>

namespace moesaic::model {

using core::ExitCode;

void read_grouped_attention(const Configuration& config, double partial_rotary_factor, Architecture& architecture) {
    AttentionSettings& attention = architecture.attention;
    attention.kv_heads = config.get_size_or("num_key_value_heads", attention.heads);
    core::require(attention.heads % attention.kv_heads == 0, ExitCode::corrupt_input,
                  "{}: num_attention_heads = {} is no multiple of num_key_value_heads = {}; correct the file",
                  config.source(), attention.heads, attention.kv_heads);
    constexpr index_t largest_head = 1 << 20;
    attention.head_size = config.get_size_or("head_dim", architecture.hidden / attention.heads, 1, largest_head);
    attention.value_size = attention.head_size;
    attention.scale = 1.0 / std::sqrt(static_cast<double>(attention.head_size));
    attention.rope = read_rope(config, {attention.head_size, "head_dim", partial_rotary_factor});
}

void read_latent_attention(const Configuration& config, Architecture& architecture) {
    refuse_windows(config, architecture);
    config.refuse_unless("num_key_value_heads", architecture.attention.heads);
    AttentionSettings& attention = architecture.attention;
    constexpr index_t largest_head = 1 << 19;
    architecture.mixers.assign(architecture.mixers.size(), MixerKind::latent_attention);
    attention.kv_heads = attention.heads;
    const index_t plain = config.get_size("qk_nope_head_dim", 1, largest_head);
    const index_t rotated = config.get_size("qk_rope_head_dim", 1, largest_head);
    attention.head_size = plain + rotated;
    config.refuse_unless("qk_head_dim", attention.head_size);
    attention.value_size = config.get_size("v_head_dim", 1, largest_head);
    attention.query_rank = config.get_size_or("q_lora_rank", 0, 0);
    attention.kv_rank = config.get_size("kv_lora_rank");
    attention.input_bias = attention.output_bias = config.get_flag("attention_bias");
    attention.rope = read_rope(config, {rotated, "qk_rope_head_dim", 1});
    attention.rope.interleaved = config.get_flag("rope_interleave");
    attention.scale = attention.rope.latent_score_factor / std::sqrt(static_cast<double>(attention.head_size));
}

void read_windows(const Configuration& config, bool enabled, const std::function<bool(index_t layer)>& slides,
                  Architecture& architecture) {
    const auto types = config.get_or<std::vector<std::string>>("layer_types", {});
    core::require(types.empty() || static_cast<index_t>(types.size()) == architecture.layers, ExitCode::corrupt_input,
                  "{}: layer_types has {} entries for num_hidden_layers = {}; correct the file", config.source(),
                  types.size(), architecture.layers);
    for (const std::string& type : types) {
        core::require(type == "full_attention" || type == "sliding_attention", ExitCode::usage,
                      "{}: layer_types has \"{}\" (full_attention and sliding_attention are supported); use another "
                      "model",
                      config.source(), core::printable(type, 80));
    }
    for (std::size_t layer = 0; enabled && layer < architecture.attention.windows.size(); ++layer) {
        if (types.empty() ? slides(static_cast<index_t>(layer)) : types[layer] == "sliding_attention") {
            architecture.attention.windows[layer] = config.get_size("sliding_window");
        }
    }
}

void refuse_windows(const Configuration& config, Architecture& architecture) {
    read_windows(
        config, true, [](index_t) { return false; }, architecture);
}

}  // namespace moesaic::model
