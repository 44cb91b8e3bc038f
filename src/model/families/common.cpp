#include "model/families/common.hpp"

#include "core/error.hpp"
#include "io/json.hpp"

#include <algorithm>
#include <array>

namespace moesaic::model {
namespace {

using core::ExitCode;

/// transformers 5 keeps `rope_parameters`; version 4 `rope_theta` and `rope_scaling`. Only the default RoPE is
/// supported.
double read_rope_theta(const nlohmann::json& config, const std::string& source) {
    constexpr double default_theta = 10000.0;
    const bool generation_5 = config.contains("rope_parameters") && !config["rope_parameters"].is_null();
    const std::string key = generation_5 ? "rope_parameters" : "rope_scaling";
    const auto parameters = io::get_or<nlohmann::json>(config, key, nlohmann::json::object(), source);
    core::require(parameters.is_object(), ExitCode::corrupt_input, "{}: {} is no object; correct the file", source,
                  key);
    // "type" is the older spelling of "rope_type".
    const auto older_type = io::get_or<std::string>(parameters, "type", "default", source);
    const auto type = io::get_or<std::string>(parameters, "rope_type", older_type, source);
    core::require(type == "default", ExitCode::usage,
                  "{}: {}.rope_type = \"{}\" is not supported (only \"default\" is); use a model without RoPE scaling",
                  source, key, type);
    const double flat_theta = io::get_or<double>(config, "rope_theta", default_theta, source);
    const double theta = io::get_or<double>(parameters, "rope_theta", flat_theta, source);
    core::require(theta > 0, ExitCode::corrupt_input, "{}: rope_theta = {} must be positive; correct the file", source,
                  theta);
    return theta;
}

}  // namespace

void refuse_unless(const nlohmann::json& config, const std::string& key, const nlohmann::json& supported,
                   const std::string& source) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || *found == supported) {
        return;
    }
    core::fail(ExitCode::usage, "{}: {} = {} is not supported (only {} is); use a model without it", source, key,
               found->dump().substr(0, 80), supported.dump());
}

Architecture read_common(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "quantization_config", nullptr, source);
    refuse_unless(config, "hidden_act", "silu", source);
    refuse_unless(config, "attention_dropout", 0.0, source);
    refuse_unless(config, "mlp_bias", false, source);
    Architecture architecture;
    architecture.hidden = io::get_size(config, "hidden_size", source);
    architecture.layers = io::get_size(config, "num_hidden_layers", source, 1, 4096);
    architecture.vocabulary = io::get_size(config, "vocab_size", source);
    architecture.heads = io::get_size(config, "num_attention_heads", source);
    architecture.kv_heads = io::get_size_or(config, "num_key_value_heads", architecture.heads, source);
    core::require(architecture.heads % architecture.kv_heads == 0, ExitCode::corrupt_input,
                  "{}: num_attention_heads = {} is no multiple of num_key_value_heads = {}; correct the file", source,
                  architecture.heads, architecture.kv_heads);
    architecture.head_size = io::get_size_or(config, "head_dim", architecture.hidden / architecture.heads, source);
    core::require(architecture.head_size % 2 == 0, ExitCode::corrupt_input,
                  "{}: head_dim = {} is odd, but RoPE rotates pairs; correct the file", source, architecture.head_size);
    architecture.dense_intermediate = io::get_size_or(config, "intermediate_size", 0, source, 0);
    architecture.max_positions = io::get_size_or(config, "max_position_embeddings", io::max_json_size, source);
    architecture.tied_head = io::get_or<bool>(config, "tie_word_embeddings", false, source);
    architecture.norm_epsilon = io::get<double>(config, "rms_norm_eps", source);
    core::require(architecture.norm_epsilon >= 0, ExitCode::corrupt_input,
                  "{}: rms_norm_eps = {} is negative; correct the file", source, architecture.norm_epsilon);
    architecture.rope_theta = read_rope_theta(config, source);
    return architecture;
}

void read_expert_counts(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    const std::array<std::string, 3> spellings = {"num_experts", "num_local_experts", "n_routed_experts"};
    const auto found = std::find_if(spellings.begin(), spellings.end(), [&](const std::string& key) {
        return config.contains(key) && !config[key].is_null();
    });
    core::require(found != spellings.end(), ExitCode::corrupt_input,
                  "{}: the number of experts is missing (num_experts, num_local_experts or n_routed_experts); complete "
                  "the file",
                  source);
    architecture.experts = io::get_size(config, *found, source, 1, 1 << 16);
    architecture.experts_per_token = io::get_size(config, "num_experts_per_tok", source);
    core::require(architecture.experts_per_token <= architecture.experts, ExitCode::corrupt_input,
                  "{}: num_experts_per_tok = {} exceeds {} = {}; correct the file", source,
                  architecture.experts_per_token, *found, architecture.experts);
}

}  // namespace moesaic::model
