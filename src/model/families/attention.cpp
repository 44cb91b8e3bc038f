#include "core/error.hpp"
#include "io/json.hpp"
#include "model/families/common.hpp"

#include <cmath>

namespace moesaic::model {

using core::ExitCode;

void read_grouped_attention(const nlohmann::json& config, const std::string& source, double partial_rotary_factor,
                            Architecture& architecture) {
    AttentionSettings& attention = architecture.attention;
    attention.kv_heads = io::get_size_or(config, "num_key_value_heads", attention.heads, source);
    core::require(attention.heads % attention.kv_heads == 0, ExitCode::corrupt_input,
                  "{}: num_attention_heads = {} is no multiple of num_key_value_heads = {}; correct the file", source,
                  attention.heads, attention.kv_heads);
    constexpr index_t largest_head = 1 << 20;
    attention.head_size =
        io::get_size_or(config, "head_dim", architecture.hidden / attention.heads, source, 1, largest_head);
    attention.value_size = attention.head_size;
    attention.scale = 1.0 / std::sqrt(static_cast<double>(attention.head_size));
    attention.rope = read_rope(config, source, {attention.head_size, "head_dim", partial_rotary_factor});
}

void read_latent_attention(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    refuse_windows(config, source, architecture);
    refuse_unless(config, "num_key_value_heads", architecture.attention.heads, source);
    AttentionSettings& attention = architecture.attention;
    constexpr index_t largest_head = 1 << 19;
    attention.kind = AttentionKind::latent;
    attention.kv_heads = attention.heads;
    const index_t plain = io::get_size(config, "qk_nope_head_dim", source, 1, largest_head);
    const index_t rotated = io::get_size(config, "qk_rope_head_dim", source, 1, largest_head);
    attention.head_size = plain + rotated;
    refuse_unless(config, "qk_head_dim", attention.head_size, source);
    attention.value_size = io::get_size(config, "v_head_dim", source, 1, largest_head);
    attention.query_rank = io::get_size_or(config, "q_lora_rank", 0, source, 0);
    attention.kv_rank = io::get_size(config, "kv_lora_rank", source);
    attention.input_bias = attention.output_bias = io::get_or<bool>(config, "attention_bias", false, source);
    attention.rope = read_rope(config, source, {rotated, "qk_rope_head_dim", 1});
    attention.rope.interleaved = io::get_or<bool>(config, "rope_interleave", true, source);
    attention.scale = attention.rope.latent_score_factor / std::sqrt(static_cast<double>(attention.head_size));
}

void read_windows(const nlohmann::json& config, const std::string& source, bool enabled,
                  const std::function<bool(index_t layer)>& slides, Architecture& architecture) {
    const auto types = io::get_or<std::vector<std::string>>(config, "layer_types", {}, source);
    core::require(types.empty() || static_cast<index_t>(types.size()) == architecture.layers, ExitCode::corrupt_input,
                  "{}: layer_types has {} entries for num_hidden_layers = {}; correct the file", source, types.size(),
                  architecture.layers);
    for (const std::string& type : types) {
        core::require(type == "full_attention" || type == "sliding_attention", ExitCode::usage,
                      "{}: layer_types has \"{}\" (full_attention and sliding_attention are supported); use another "
                      "model",
                      source, type.substr(0, 80));
    }
    for (std::size_t layer = 0; enabled && layer < architecture.attention.windows.size(); ++layer) {
        if (types.empty() ? slides(static_cast<index_t>(layer)) : types[layer] == "sliding_attention") {
            architecture.attention.windows[layer] = io::get_size(config, "sliding_window", source);
        }
    }
}

void refuse_windows(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    refuse_unless(config, "sliding_window", nullptr, source);
    refuse_unless(config, "use_sliding_window", false, source);
    read_windows(
        config, source, true, [](index_t) { return false; }, architecture);
}

}  // namespace moesaic::model
