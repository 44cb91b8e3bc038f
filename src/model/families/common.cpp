#include "model/families/common.hpp"

#include "core/error.hpp"
#include "io/json.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::model {

using core::ExitCode;

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
    refuse_unless(config, "attn_logit_softcapping", nullptr, source);
    refuse_unless(config, "final_logit_softcapping", nullptr, source);
    refuse_unless(config, "is_causal", true, source);
    refuse_unless(config, "is_decoder", true, source);
    Architecture architecture;
    architecture.hidden = io::get_size(config, "hidden_size", source);
    architecture.layers = io::get_size(config, "num_hidden_layers", source, 1, 4096);
    architecture.vocabulary = io::get_size(config, "vocab_size", source);
    architecture.dense_intermediate = io::get_size_or(config, "intermediate_size", 0, source, 0);
    architecture.max_positions = io::get_size_or(config, "max_position_embeddings", io::max_json_size, source);
    architecture.tied_head = io::get_or<bool>(config, "tie_word_embeddings", false, source);
    architecture.norm_epsilon = io::get<double>(config, "rms_norm_eps", source);
    core::require(architecture.norm_epsilon >= 0, ExitCode::corrupt_input,
                  "{}: rms_norm_eps = {} is negative; correct the file", source, architecture.norm_epsilon);
    const auto layers = static_cast<std::size_t>(architecture.layers);
    architecture.is_moe.assign(layers, true);
    architecture.attention.windows.assign(layers, 0);
    architecture.attention.heads = io::get_size(config, "num_attention_heads", source, 1, 1 << 20);
    return architecture;
}

void read_experts(const nlohmann::json& config, const std::string& source, const std::string& intermediate_key,
                  Architecture& architecture) {
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
    architecture.expert_intermediate = io::get_size(config, intermediate_key, source);
}

void read_expert_groups(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    RouterSettings& router = architecture.router;
    router.groups = io::get_size(config, "n_group", source);
    router.chosen_groups = io::get_size(config, "topk_group", source);
    core::require(architecture.experts % router.groups == 0, ExitCode::corrupt_input,
                  "{}: {} experts can't be divided into n_group = {} groups of the same size; correct the file", source,
                  architecture.experts, router.groups);
    const index_t size = architecture.experts / router.groups;
    core::require(router.groups == 1 || size >= router.group_leaders, ExitCode::corrupt_input,
                  "{}: n_group = {} leaves {} experts per group (the router compares the best {}); correct the file",
                  source, router.groups, size, router.group_leaders);
    core::require(
        router.chosen_groups <= router.groups && router.chosen_groups * size >= architecture.experts_per_token,
        ExitCode::corrupt_input,
        "{}: topk_group = {} does not fit n_group = {} and num_experts_per_tok = {} (the chosen groups must "
        "exist and hold as many experts); correct the file",
        source, router.chosen_groups, router.groups, architecture.experts_per_token);
}

void read_deepseek_router(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    RouterSettings& router = architecture.router;
    router.scoring = Scoring::sigmoid;
    router.has_correction_bias = true;
    router.group_leaders = 2;
    router.normalize = io::get_or<bool>(config, "norm_topk_prob", true, source);
    router.epsilon = 1e-20;
    router.scale = io::get<double>(config, "routed_scaling_factor", source);
    read_expert_groups(config, source, architecture);
}

void read_qwen_layers(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    const index_t step = io::get_size_or(config, "decoder_sparse_step", 1, source);
    const auto dense_layers = io::get_or<std::vector<index_t>>(config, "mlp_only_layers", {}, source);
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        const bool listed = std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end();
        architecture.is_moe[static_cast<std::size_t>(layer)] = !listed && (layer + 1) % step == 0;
    }
    require_dense_size(source, architecture);
}

void read_deepseek_layers(const nlohmann::json& config, const std::string& source, Architecture& architecture) {
    const index_t first = io::get_size(config, "first_k_dense_replace", source, 0);
    refuse_unless(config, "moe_layer_freq", 1, source);  // transformers and the models' own code read it differently
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        architecture.is_moe[static_cast<std::size_t>(layer)] = layer >= first;
    }
    require_dense_size(source, architecture);
    const index_t limit = io::max_json_size / architecture.expert_intermediate;
    const index_t shared = io::get_size_or(config, "n_shared_experts", 0, source, 0, limit);
    architecture.shared.intermediate = shared * architecture.expert_intermediate;
    architecture.names.shared = "mlp.shared_experts";
}

void require_dense_size(const std::string& source, const Architecture& architecture) {
    const bool has_dense = architecture.moe_layers() < architecture.layers;
    core::require(!has_dense || architecture.dense_intermediate > 0, ExitCode::corrupt_input,
                  "{}: intermediate_size is missing, but some layers are dense; complete the file", source);
}

}  // namespace moesaic::model
