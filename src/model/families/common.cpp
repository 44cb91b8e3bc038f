#include "model/families/common.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::model {

using core::ExitCode;

namespace {

constexpr index_t most_layers = 1024;
constexpr index_t most_experts = 4096;  // of a layer

}  // namespace

Architecture read_common(const Configuration& config) {
    Architecture architecture;
    architecture.hidden = config.get_size("hidden_size");
    architecture.layers = config.get_size("num_hidden_layers", 1, most_layers);
    architecture.positions = config.get_size("max_position_embeddings");
    architecture.vocabulary = config.get_size("vocab_size");
    architecture.dense_intermediate = config.get_size_or("intermediate_size", 0, 0);
    architecture.tied_head = config.get_flag("tie_word_embeddings");
    architecture.norm_epsilon = config.get_number("rms_norm_eps", 0, 1);
    const auto layers = static_cast<std::size_t>(architecture.layers);
    architecture.is_moe.assign(layers, true);
    architecture.attention.windows.assign(layers, 0);
    architecture.mixers.assign(layers, MixerKind::grouped_attention);
    architecture.attention.heads = config.get_size("num_attention_heads", 1, 1 << 16);
    return architecture;
}

void read_experts(const Configuration& config, const std::string& intermediate_key, Architecture& architecture) {
    const std::array<std::string, 3> spellings = {"num_experts", "num_local_experts", "n_routed_experts"};
    const auto found =
        std::find_if(spellings.begin(), spellings.end(), [&](const std::string& key) { return config.has(key); });
    core::require(found != spellings.end(), ExitCode::corrupt_input,
                  "{}: the number of experts is missing (num_experts, num_local_experts or n_routed_experts); complete "
                  "the file",
                  config.source());
    architecture.experts = config.get_size(*found, 1, most_experts);
    for (const std::string& other : spellings) {
        const index_t count = config.get_size_or(other, architecture.experts);
        core::require(count == architecture.experts, ExitCode::usage,
                      "{}: {} = {} and {} = {} contradict each other (both are the number of experts); remove one",
                      config.source(), *found, architecture.experts, other, count);
    }
    architecture.experts_per_token = config.get_size("num_experts_per_tok");
    core::require(architecture.experts_per_token <= architecture.experts, ExitCode::corrupt_input,
                  "{}: num_experts_per_tok = {} exceeds {} = {}; correct the file", config.source(),
                  architecture.experts_per_token, *found, architecture.experts);
    architecture.expert_intermediate = config.get_size(intermediate_key);
}

void read_expert_groups(const Configuration& config, Architecture& architecture) {
    ops::RouterSettings& router = architecture.router;
    router.groups = config.get_size("n_group");
    router.chosen_groups = config.get_size("topk_group");
    core::require(architecture.experts % router.groups == 0, ExitCode::corrupt_input,
                  "{}: {} can't be divided into n_group = {} groups of the same size; correct the file",
                  config.source(), core::counted(architecture.experts, "expert"), router.groups);
    const index_t size = architecture.experts / router.groups;
    core::require(router.groups == 1 || size >= router.group_leaders, ExitCode::corrupt_input,
                  "{}: n_group = {} leaves {} per group (the router compares the best {}); correct the file",
                  config.source(), router.groups, core::counted(size, "expert"), router.group_leaders);
    core::require(
        router.chosen_groups <= router.groups && router.chosen_groups * size >= architecture.experts_per_token,
        ExitCode::corrupt_input,
        "{}: topk_group = {} does not fit n_group = {} and num_experts_per_tok = {} (the chosen groups must "
        "exist and hold as many experts); correct the file",
        config.source(), router.chosen_groups, router.groups, architecture.experts_per_token);
}

double read_router_scale(const Configuration& config) {
    constexpr double most = 1e4;
    const auto scale = config.get_number("routed_scaling_factor", 0, most);
    core::require(scale > 0, ExitCode::corrupt_input,
                  "{}: routed_scaling_factor = {} makes no sense (experts would be switched off); correct the file",
                  config.source(), scale);
    return scale;
}

void read_deepseek_router(const Configuration& config, Architecture& architecture) {
    ops::RouterSettings& router = architecture.router;
    router.scoring = ops::Scoring::sigmoid;
    router.has_correction_bias = true;
    router.group_leaders = 2;
    router.normalize = config.get_flag("norm_topk_prob");
    router.epsilon = 1e-20;
    router.scale = read_router_scale(config);
    read_expert_groups(config, architecture);
}

void read_qwen_layers(const Configuration& config, Architecture& architecture) {
    const index_t step = config.get_size("decoder_sparse_step");
    const auto dense_layers = config.get_or<std::vector<index_t>>("mlp_only_layers", {});
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        const bool listed = std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end();
        architecture.is_moe[static_cast<std::size_t>(layer)] = !listed && (layer + 1) % step == 0;
    }
    require_dense_size(config, architecture);
}

void read_deepseek_layers(const Configuration& config, Architecture& architecture) {
    const index_t first = config.get_size("first_k_dense_replace", 0);
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        architecture.is_moe[static_cast<std::size_t>(layer)] = layer >= first;
    }
    require_dense_size(config, architecture);
    const index_t limit = io::max_json_size / architecture.expert_intermediate;
    const index_t shared = config.get_size_or("n_shared_experts", 0, 0, limit);
    config.refuse_unless("num_shared_experts", shared);  // another name of the same
    architecture.shared.intermediate = shared * architecture.expert_intermediate;
    architecture.names.shared = "mlp.shared_experts";
}

void require_dense_size(const Configuration& config, const Architecture& architecture) {
    const bool has_dense = architecture.moe_layers() < architecture.layers;
    core::require(!has_dense || architecture.dense_intermediate > 0, ExitCode::corrupt_input,
                  "{}: intermediate_size is missing, but some layers are dense; complete the file", config.source());
}

}  // namespace moesaic::model
