#include "model/weights/synthetic.hpp"

#include "core/error.hpp"
#include "core/random.hpp"
#include "core/random_fill.hpp"
#include "core/text.hpp"

#include <fmt/ranges.h>
#include <xxhash.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <utility>

namespace moesaic::model {
namespace {

/// What the config.json of a published model says about its sizes; the last is that of the reference benchmark. Where
/// one name stands for several: moonshotai/Kimi-K2-Instruct, its first release; zai-org/GLM-4.5-Air;
/// mistralai/Mixtral-8x22B-v0.1.
struct KnownModel {
    std::string_view name;
    std::string_view config;
};

constexpr std::array known_models = {
    KnownModel{"qwen3-30b-a3b", R"({"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
        "vocab_size": 151936, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": true, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960})"},
    KnownModel{"qwen3-235b-a22b", R"({"model_type": "qwen3_moe", "hidden_size": 4096, "num_hidden_layers": 94,
        "vocab_size": 151936, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": true, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960})"},
    KnownModel{"deepseek-v3", R"({"model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
        "vocab_size": 129280, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "moe_layer_freq": 1,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 163840, "rope_scaling": {"type": "yarn",
        "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096}})"},
    KnownModel{"deepseek-v2-lite", R"({"model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27,
        "vocab_size": 102400, "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 163840, "rope_scaling": {"type": "yarn",
        "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096}})"},
    KnownModel{"kimi-k2", R"({"model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61,
        "vocab_size": 163840, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 384, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.827,
        "rms_norm_eps": 1e-6, "rope_theta": 50000.0, "max_position_embeddings": 131072, "rope_scaling": {"type": "yarn",
        "factor": 32, "beta_fast": 1, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096}})"},
    KnownModel{"glm-4.5-air", R"({"model_type": "glm4_moe", "hidden_size": 4096, "num_hidden_layers": 46,
        "vocab_size": 151552, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
        "attention_bias": true, "use_qk_norm": false, "partial_rotary_factor": 0.5, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": true,
        "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "max_position_embeddings": 131072})"},
    KnownModel{"mixtral-8x7b", R"({"model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32,
        "vocab_size": 32000, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
        "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768})"},
    KnownModel{"mixtral-8x22b", R"({"model_type": "mixtral", "hidden_size": 6144, "num_hidden_layers": 56,
        "vocab_size": 32000, "num_attention_heads": 48, "num_key_value_heads": 8, "intermediate_size": 16384,
        "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "max_position_embeddings": 65536})"},
    KnownModel{"moesaic-reference", R"({"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 2,
        "vocab_size": 16384, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 32, "num_experts_per_tok": 8,
        "norm_topk_prob": true, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960})"}};

std::uint64_t stream_of(const std::string& tensor) {
    return XXH3_64bits(tensor.data(), tensor.size());
}

/// Outputs of a projection [out, in] then vary as its inputs do. Rows of the embedding are inputs themselves.
double deviation_of(const std::string& tensor, index_t cols) {
    return tensor == embedding_name ? 1.0 : 1.0 / std::sqrt(static_cast<double>(cols));
}

}  // namespace

std::vector<std::string> synthetic_names() {
    std::vector<std::string> names;
    std::transform(known_models.begin(), known_models.end(), std::back_inserter(names),
                   [](const KnownModel& model) { return std::string(model.name); });
    return names;
}

Architecture synthetic_architecture(std::string_view name, std::string_view option) {
    const auto found = std::find_if(known_models.begin(), known_models.end(),
                                    [name](const KnownModel& model) { return model.name == name; });
    if (found == known_models.end()) {
        const auto names = synthetic_names();
        const std::string near = core::nearest(name, names);
        core::fail(core::ExitCode::usage, "{} = {} is not known (models are {}); {}", option, name,
                   fmt::join(names, ", "), near.empty() ? "choose one of them" : "did you mean " + near + "?");
    }
    return read_architecture(nlohmann::json::parse(found->config), std::string(name));
}

double router_scale(index_t expert, index_t experts, double skew) {
    return 1 +
           skew * static_cast<double>(experts - 1 - expert) / static_cast<double>(std::max(experts - 1, index_t{1}));
}

std::vector<double> skewed_popularity(index_t experts, index_t choices, double skew) {
    constexpr index_t draws = 2000;
    const core::CounterRandom random(0, 0);
    std::vector<double> popularity(static_cast<std::size_t>(experts), 0);
    std::vector<std::pair<double, index_t>> scores(popularity.size());
    for (index_t draw = 0; draw < draws; ++draw) {
        for (index_t e = 0; e < experts; ++e) {
            const auto place = static_cast<std::uint64_t>(draw * experts + e);
            scores[static_cast<std::size_t>(e)] = {router_scale(e, experts, skew) * random.normal(place), e};
        }
        std::partial_sort(scores.begin(), scores.begin() + choices, scores.end(), std::greater<>());
        for (index_t choice = 0; choice < choices; ++choice) {
            const index_t expert = scores[static_cast<std::size_t>(choice)].second;
            popularity[static_cast<std::size_t>(expert)] += 1 / static_cast<double>(draws * choices);
        }
    }
    return popularity;
}

template <class Scalar>
void SyntheticWeights<Scalar>::read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const {
    core::fill_random(out, {.cols = part.cols, .row_begin = part.row_begin, .col_begin = part.col_begin}, seed_,
                      stream_of(name), deviation_of(name, part.cols));
}

template <class Scalar>
void SyntheticWeights<Scalar>::read_full_precision(const std::string& name, TensorRole role,
                                                   MatrixView<accumulator_t<Scalar>> out) const {
    if (role != TensorRole::matrix) {
        std::fill_n(out[0], out.cols(), accumulator_t<Scalar>(role == TensorRole::scale ? 1 : 0));
        return;
    }
    core::fill_random(out, seed_, stream_of(name), deviation_of(name, out.cols()));
    for (index_t expert = 0; expert < out.rows() && router_skew_ > 0; ++expert) {
        const double scale = router_scale(expert, out.rows(), router_skew_);
        for (accumulator_t<Scalar>& value : out.row(expert)) {
            value = static_cast<accumulator_t<Scalar>>(scale * value);
        }
    }
}

template class SyntheticWeights<core::bf16>;
template class SyntheticWeights<float>;

}  // namespace moesaic::model
