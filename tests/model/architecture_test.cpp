// Reading config.json.
#include "model/families/architecture.hpp"
#include "core/error.hpp"
#include "support/small_configs.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace moesaic::model {
namespace {

using core::ExitCode;

nlohmann::json transformers_5() {
    return {{"model_type", "qwen3_moe"},   {"attention_bias", false},
            {"decoder_sparse_step", 2},    {"head_dim", 32},
            {"hidden_act", "silu"},        {"hidden_size", 128},
            {"intermediate_size", 256},    {"max_position_embeddings", 512},
            {"mlp_only_layers", {3}},      {"moe_intermediate_size", 64},
            {"norm_topk_prob", true},      {"num_attention_heads", 4},
            {"num_experts_per_tok", 2},    {"num_hidden_layers", 6},
            {"num_key_value_heads", 2},    {"num_local_experts", 8},
            {"rms_norm_eps", 1e-6},        {"rope_parameters", {{"rope_theta", 5e6}, {"rope_type", "default"}}},
            {"sliding_window", nullptr},   {"tie_word_embeddings", true},
            {"use_sliding_window", false}, {"vocab_size", 320}};
}

class ArchitectureTest : public testing::Test {
protected:
    ArchitectureTest() : folder_(std::filesystem::temp_directory_path() / "moesaic-architecture-test") {
        std::filesystem::create_directories(folder_);
    }
    ~ArchitectureTest() override { std::filesystem::remove_all(folder_); }

    Architecture read(const nlohmann::json& config) {
        std::ofstream(folder_ / "config.json") << config.dump();
        return read_architecture(folder_);
    }
    std::pair<ExitCode, std::string> error_of(const nlohmann::json& config) {
        try {
            read(config);
        } catch (const core::Error& error) {
            return {error.code(), error.what()};
        }
        return {ExitCode::success, ""};
    }

    std::filesystem::path folder_;
};

TEST_F(ArchitectureTest, ReadsTransformers5) {
    const Architecture a = read(transformers_5());
    EXPECT_EQ(a.family, "qwen3_moe");
    EXPECT_EQ(a.hidden, 128);
    EXPECT_EQ(a.experts, 8);
    EXPECT_EQ(a.experts_per_token, 2);
    EXPECT_EQ(a.expert_intermediate, 64);
    EXPECT_DOUBLE_EQ(a.attention.rope.theta, 5e6);
    EXPECT_TRUE(a.tied_head);
    EXPECT_TRUE(a.router.normalize);
    // Every second layer is sparse, and layer 3 is listed as dense.
    EXPECT_EQ(a.is_moe, (std::vector<bool>{false, true, false, false, false, true}));
    EXPECT_EQ(a.expert_module(1, 7, a.names.up), "model.layers.1.mlp.experts.7.up_proj");
}

TEST_F(ArchitectureTest, ReadsTransformers4) {
    nlohmann::json config = transformers_5();
    config.erase("rope_parameters");
    config.erase("num_local_experts");
    config["rope_theta"] = 1e6;
    config["rope_scaling"] = nullptr;
    config["num_experts"] = 16;
    const Architecture a = read(config);
    EXPECT_DOUBLE_EQ(a.attention.rope.theta, 1e6);
    EXPECT_EQ(a.experts, 16);
}

TEST_F(ArchitectureTest, RefusesWhatItDoesNotSupportByName) {
    const std::vector<std::pair<std::string, nlohmann::json>> changes = {
        {"model_type", "llama"},
        {"hidden_act", "gelu"},
        {"attention_dropout", 0.1},
        {"mlp_bias", true},
        {"attn_logit_softcapping", 50.0},
        {"final_logit_softcapping", 30.0},
        {"partial_rotary_factor", 0.5},
        {"compression_config", {{"quant_method", "compressed-tensors"}}},
        {"attention_kind", "linear"},
        {"scoring_func", "sigmoid"},
        {"n_group", 2},
        {"topk_method", "noaux_tc"},
        {"first_k_dense_replace", 1},
        {"swiglu_limit", 7.0},
        {"alibi", true},
        {"add_sink", true},
        {"use_qk_norm", false},
        {"is_encoder_decoder", true},
        {"text_config", {{"model_type", "qwen3_moe"}}},
        {"attn_output_gate", true},
        {"attention_chunk_size", 8192},
        {"dual_chunk_attention_config", {{"chunk_size", 262144}}},
        {"shared_expert_intermediate_size", 32},
        {"residual_multiplier", 0.22},
        {"layer_types", nlohmann::json(6, "linear_attention")},
        {"rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}},
        {"rope_parameters", {{"rope_type", "default"}, {"mrope_section", {1, 2, 3}}}},
        {"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}};
    for (const auto& [key, value] : changes) {
        nlohmann::json config = transformers_5();
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::usage) << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
        EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    }
}

TEST_F(ArchitectureTest, IgnoresWhatSaysNothingAboutTheModel) {
    nlohmann::json config = transformers_5();
    config.update({{"architectures", {"Qwen3MoeForCausalLM"}},
                   {"_attn_implementation_autoset", true},
                   {"use_flash_attn", true},
                   {"attn_output_gate", false},
                   {"attention_chunk_size", nullptr},
                   {"auto_map", {{"AutoConfig", "configuration.Config"}}},
                   {"chunk_size_feed_forward", 0},
                   {"dtype", "bfloat16"},
                   {"initializer_range", 0.02},
                   {"max_window_layers", 48},
                   {"num_nextn_predict_layers", 1},
                   {"output_router_logits", true},
                   {"pretraining_tp", 1},
                   {"router_aux_loss_coef", 0.001},
                   {"sliding_window", 4096},
                   {"unsloth_fixed", true},
                   {"use_cache", true}});
    EXPECT_EQ(error_of(config).second, "");
}

/// All keys of transformers' PretrainedConfig with their defaults, as version 4 dumps them, change nothing.
TEST_F(ArchitectureTest, AcceptsTheDefaultsOfTransformers) {
    nlohmann::json config = transformers_5();
    config.update({{"_name_or_path", ""},
                   {"add_cross_attention", false},
                   {"bad_words_ids", nullptr},
                   {"chunk_size_feed_forward", 0},
                   {"cross_attention_hidden_size", nullptr},
                   {"diversity_penalty", 0.0},
                   {"early_stopping", false},
                   {"finetuning_task", nullptr},
                   {"id2label", {{"0", "LABEL_0"}, {"1", "LABEL_1"}}},
                   {"is_decoder", false},
                   {"is_encoder_decoder", false},
                   {"label2id", {{"LABEL_0", 0}, {"LABEL_1", 1}}},
                   {"length_penalty", 1.0},
                   {"max_length", 20},
                   {"num_beam_groups", 1},
                   {"prefix", nullptr},
                   {"problem_type", nullptr},
                   {"pruned_heads", nlohmann::json::object()},
                   {"remove_invalid_values", false},
                   {"tf_legacy_loss", false},
                   {"tie_encoder_decoder", false},
                   {"top_k", 50},
                   {"torch_dtype", "bfloat16"},
                   {"torchscript", false},
                   {"use_bfloat16", false}});
    EXPECT_EQ(read(config).warning, "");
}

/// Neutral values of what other families or programs have: as Qwen3-Coder writes them.
TEST_F(ArchitectureTest, AcceptsNeutralValuesOfOtherFeatures) {
    nlohmann::json config = transformers_5();
    config.update({{"use_qk_norm", true},
                   {"qkv_bias", false},
                   {"shared_expert_intermediate_size", 0},
                   {"n_group", 1},
                   {"scoring_func", "softmax"},
                   {"routed_scaling_factor", 1.0},
                   {"attention_chunk_size", nullptr}});
    EXPECT_EQ(read(config).warning, "");
}

TEST_F(ArchitectureTest, NamesUnknownKeysOnce) {
    nlohmann::json config = transformers_5();
    config.update({{"colour", "blue"}, {"attention_\x1b[2J", 1}, {"nothing", nullptr}});
    const std::string warning = read(config).warning;
    EXPECT_NE(warning.find("config.json"), std::string::npos) << warning;
    EXPECT_NE(warning.find("attention_\\x1b[2J, colour"), std::string::npos) << warning;
    EXPECT_EQ(warning.find("nothing"), std::string::npos) << warning;
    EXPECT_EQ(warning.find('\n'), std::string::npos) << warning;
}

/// As transformers' configuration class of each family has them.
TEST_F(ArchitectureTest, MissingKeysHaveTheDefaultsOfTheFamily) {
    struct Defaults {
        std::string family;
        index_t kv_heads;
        double epsilon;
        double theta;
    };
    for (const auto& [family, kv_heads, epsilon, theta] : std::vector<Defaults>{{"mixtral", 8, 1e-5, 1e6},
                                                                                {"qwen2_moe", 16, 1e-6, 1e4},
                                                                                {"qwen3_moe", 4, 1e-6, 1e4},
                                                                                {"olmoe", 16, 1e-5, 1e4},
                                                                                {"glm4_moe", 8, 1e-5, 1e4},
                                                                                {"deepseek_v2", 16, 1e-6, 1e4},
                                                                                {"deepseek_v3", 16, 1e-6, 1e4}}) {
        nlohmann::json config = test::small_config(family);
        for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta", "partial_rotary_factor",
                                "tie_word_embeddings", "norm_topk_prob", "max_position_embeddings"}) {
            config.erase(key);
        }
        config["num_attention_heads"] = 16;
        const Architecture a = read(config);
        EXPECT_EQ(a.attention.kv_heads, kv_heads) << family;
        EXPECT_EQ(a.norm_epsilon, epsilon) << family;
        EXPECT_EQ(a.attention.rope.theta, theta) << family;
        EXPECT_FALSE(a.tied_head) << family;
        EXPECT_EQ(a.router.normalize, family == "mixtral" || family == "glm4_moe" || family == "deepseek_v3") << family;
    }
    EXPECT_EQ(read(test::small_config("glm4_moe")).attention.rope.size, 4);
    nlohmann::json config = test::small_config("deepseek_v2");
    for (const char* key : {"q_lora_rank", "kv_lora_rank", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"}) {
        config.erase(key);
    }
    EXPECT_EQ(read(config).attention.query_rank, 1536);
    EXPECT_EQ(read(config).attention.head_size, 192);
}

TEST_F(ArchitectureTest, RefusesTwoKeysThatSayDifferentThings) {
    nlohmann::json config = transformers_5();
    const nlohmann::json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}};
    config["rope_scaling"] = yarn;
    const auto [code, message] = error_of(config);
    EXPECT_EQ(code, ExitCode::usage) << message;
    EXPECT_NE(message.find("rope_parameters and rope_scaling"), std::string::npos) << message;
    config["rope_scaling"] = config["rope_parameters"];
    EXPECT_EQ(error_of(config).second, "");
    config["rope_scaling"] = nlohmann::json::object();
    EXPECT_EQ(error_of(config).second, "");
    config["num_experts"] = 9;
    EXPECT_NE(error_of(config).second.find("num_experts = 9 and num_local_experts = 8"), std::string::npos);
    config["num_experts"] = 8;
    EXPECT_EQ(error_of(config).second, "");
}

TEST_F(ArchitectureTest, RefusesRopeThatMeansNothing) {
    for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{{"factor", 1e-300},
                                                                                        {"factor", -1.0},
                                                                                        {"beta_fast", 1e30},
                                                                                        {"attention_factor", 0.0},
                                                                                        {"rope_theta", 1e-308}}) {
        nlohmann::json config = transformers_5();
        config["rope_parameters"] = {
            {"rope_type", "yarn"}, {"rope_theta", 1e4}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
        config["rope_parameters"][key] = value;
        EXPECT_EQ(error_of(config).first, ExitCode::corrupt_input) << key << ' ' << value;
        EXPECT_NE(error_of(config).second.find(key), std::string::npos);
    }
}

TEST_F(ArchitectureTest, ReadsHowWeightsWereQuantised) {
    const auto read_with = [&](const nlohmann::json& settings) {
        nlohmann::json config = transformers_5();
        config["quantization_config"] = settings;
        return read(config).quantisation;
    };
    const auto expect_group = [](const Quantisation& found, QuantisationMethod method, index_t rows, index_t cols) {
        EXPECT_EQ(found.method, method);
        ASSERT_EQ(found.groups.size(), 1U);
        EXPECT_EQ(found.groups[0].rows, rows);
        EXPECT_EQ(found.groups[0].cols, cols);
    };
    EXPECT_EQ(read(transformers_5()).quantisation.method, QuantisationMethod::none);
    expect_group(read_with({{"quant_method", "fp8"}}), QuantisationMethod::fp8, 128, 128);
    expect_group(read_with({{"quant_method", "fp8"}, {"weight_block_size", {1, 64}}}), QuantisationMethod::fp8, 1, 64);
    EXPECT_EQ(read_with({{"quant_method", "fp8"}, {"weight_block_size", nullptr}}).groups.size(), 2U);
    const Quantisation gptq = read_with({{"quant_method", "gptq"}, {"bits", 8}, {"group_size", -1}});
    expect_group(gptq, QuantisationMethod::gptq, 1, 0);
    EXPECT_EQ(gptq.bits, 8);
    EXPECT_EQ(gptq.zero_offset, 1);
    EXPECT_EQ(read_with({{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"checkpoint_format", "gptq_v2"}})
                  .zero_offset,
              0);
    const nlohmann::json group = {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 32}};
    expect_group(read_with({{"quant_method", "compressed-tensors"},
                            {"format", "pack-quantized"},
                            {"config_groups", {{"group_0", {{"weights", group}}}}}}),
                 QuantisationMethod::compressed_tensors, 1, 32);
}

/// ModelOpt and AutoGPTQ leave config.json as it was.
TEST_F(ArchitectureTest, ReadsHowWeightsWereQuantisedFromFilesBesideTheConfiguration) {
    std::ofstream(folder_ / "hf_quant_config.json") << R"({"quantization": {"quant_algo": "NVFP4"}})";
    EXPECT_EQ(read(transformers_5()).quantisation.method, QuantisationMethod::modelopt);
    std::ofstream(folder_ / "hf_quant_config.json") << R"({"quantization": {"quant_algo": "W4A8_AWQ"}})";
    const auto [code, message] = error_of(transformers_5());
    EXPECT_EQ(code, ExitCode::usage);
    EXPECT_NE(message.find("hf_quant_config.json: quantised weights with quant_algo = W4A8_AWQ"), std::string::npos)
        << message;
    std::filesystem::remove(folder_ / "hf_quant_config.json");
    std::ofstream(folder_ / "quantize_config.json") << R"({"bits": 4, "group_size": 128})";
    EXPECT_EQ(read(transformers_5()).quantisation.method, QuantisationMethod::gptq);
}

TEST_F(ArchitectureTest, RefusesQuantisedWeightsOfOtherKindsByName) {
    const nlohmann::json group = {{"num_bits", 4}, {"type", "int"}, {"strategy", "channel"}};
    const nlohmann::json groups = {{"group_0", {{"weights", group}}}};
    const std::vector<std::pair<nlohmann::json, std::string>> settings = {
        {{{"quant_method", "bitsandbytes"}}, "quant_method \"bitsandbytes\""},
        {{{"quant_method", "gptq"}, {"bits", 3}, {"group_size", 128}}, "bits = 3"},
        {{{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"checkpoint_format", "marlin"}},
         "checkpoint_format = marlin"},
        {{{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}, {"version", "gemv"}}, "version = gemv"},
        {{{"quant_method", "modelopt"}, {"quant_algo", "W4A16_AWQ"}}, "quant_algo = W4A16_AWQ"},
        {{{"quant_method", "compressed-tensors"}, {"format", "marlin-24"}, {"config_groups", groups}},
         "format = marlin-24"},
        {{{"quant_method", "compressed-tensors"},
          {"sparsity_config", {{"format", "sparse-24-bitmask"}}},
          {"config_groups", groups}},
         "sparsity_config"},
        {{{"quant_method", "compressed-tensors"}, {"transform_config", {{"R1", 1}}}, {"config_groups", groups}},
         "transform_config"}};
    for (const auto& [object, part] : settings) {
        nlohmann::json config = transformers_5();
        config["quantization_config"] = object;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::usage) << message;
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
    const std::vector<std::pair<nlohmann::json, std::string>> nonsense = {
        {{{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 0}}, "group_size = 0"},
        {{{"quant_method", "gptq"}, {"group_size", 128}}, "bits"},
        {{{"quant_method", 4}}, "quant_method"},
        {{{"quant_method", "fp8"}, {"weight_block_size", {128}}}, "weight_block_size"},
        {{{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}, "weight_block_size"},
        {{{"quant_method", "compressed-tensors"}, {"config_groups", nlohmann::json::array()}}, "config_groups"}};
    for (const auto& [object, part] : nonsense) {
        nlohmann::json config = transformers_5();
        config["quantization_config"] = object;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::corrupt_input) << message;
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
}

TEST_F(ArchitectureTest, MessagesStayShortAndOnTheirLine) {
    nlohmann::json config = transformers_5();
    config["model_type"] = std::string(1U << 20U, 'x') + "\x1b[2J\n";
    const std::string message = error_of(config).second;
    EXPECT_LT(message.size(), 600U);
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_NE(message.find("(1048581 characters)"), std::string::npos) << message;
}

TEST_F(ArchitectureTest, NamesMissingAndWrongFields) {
    for (const std::string key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                                  "moe_intermediate_size", "num_experts_per_tok", "model_type"}) {
        nlohmann::json config = transformers_5();
        config.erase(key);
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::corrupt_input) << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
        config[key] = nlohmann::json::array();
        EXPECT_EQ(error_of(config).first, ExitCode::corrupt_input) << key;
    }
    nlohmann::json config = transformers_5();
    config.erase("num_local_experts");
    EXPECT_NE(error_of(config).second.find("num_experts"), std::string::npos);
}

TEST_F(ArchitectureTest, RefusesImpossibleSizes) {
    const std::vector<std::pair<std::string, nlohmann::json>> changes = {
        {"num_experts_per_tok", 9}, {"num_key_value_heads", 3},      {"head_dim", 31},
        {"hidden_size", -1},        {"num_hidden_layers", 0},        {"vocab_size", 1e99},
        {"rms_norm_eps", -1.0},     {"num_local_experts", 1u << 31}, {"num_local_experts", 65536},
        {"rms_norm_eps", 1e300},    {"rms_norm_eps", nullptr}};
    for (const auto& [key, value] : changes) {
        nlohmann::json config = transformers_5();
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::corrupt_input) << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
    }
}

/// What single families refuse.
struct Refusal {
    std::string family;
    std::string key;
    nlohmann::json value;
};

TEST_F(ArchitectureTest, RefusesByNameWhatAFamilyDoesNotHave) {
    const std::vector<Refusal> refusals = {{"mixtral", "router_jitter_noise", 0.1},
                                           {"mixtral", "attention_bias", true},
                                           {"qwen2_moe", "attention_bias", true},
                                           {"olmoe", "sliding_window", 8},
                                           {"glm4_moe", "use_sliding_window", true},
                                           {"glm4_moe", "topk_method", "greedy"},
                                           {"glm4_moe", "scoring_func", "softmax"},
                                           {"glm4_moe", "moe_layer_freq", 2},
                                           {"deepseek_v2", "moe_layer_freq", 2},
                                           {"deepseek_v2", "topk_method", "noaux_tc"},
                                           {"deepseek_v2", "scoring_func", "sigmoid"},
                                           {"deepseek_v2", "rope_interleave", false},
                                           {"deepseek_v3", "scoring_func", "softmax"},
                                           {"deepseek_v3", "topk_method", "greedy"},
                                           {"deepseek_v3", "moe_layer_freq", 2},
                                           {"deepseek_v3", "num_key_value_heads", 2},
                                           {"deepseek_v3", "sliding_window", 8},
                                           {"deepseek_v3", "index_topk", 2048},
                                           {"deepseek_v3", "num_shared_experts", 3},
                                           {"mixtral", "norm_topk_prob", false},
                                           {"kimi_k2", "qk_head_dim", 7}};
    for (const auto& [family, key, value] : refusals) {
        nlohmann::json config = test::small_config(family);
        ASSERT_EQ(error_of(config).second, "") << family;
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::usage) << family << ' ' << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
    }
}

TEST_F(ArchitectureTest, NamesWrongFieldsOfAFamily) {
    const std::vector<Refusal> refusals = {{"deepseek_v3", "n_group", 4},
                                           {"deepseek_v3", "topk_group", 4},
                                           {"deepseek_v3", "n_group", 6},
                                           {"deepseek_v3", "kv_lora_rank", nullptr},
                                           {"deepseek_v3", "qk_rope_head_dim", 3},
                                           {"deepseek_v3", "v_head_dim", 0},
                                           {"deepseek_v3", "routed_scaling_factor", nullptr},
                                           {"deepseek_v3", "first_k_dense_replace", -1},
                                           {"deepseek_v3", "n_shared_experts", 1u << 30},
                                           {"deepseek_v2", "n_group", nullptr},
                                           {"glm4_moe", "partial_rotary_factor", 0.0},
                                           {"qwen2_moe", "shared_expert_intermediate_size", nullptr},
                                           {"mixtral", "sliding_window", 0},
                                           {"deepseek_v3", "routed_scaling_factor", -1.0},
                                           {"deepseek_v3", "routed_scaling_factor", 0.0},
                                           {"deepseek_v3", "routed_scaling_factor", 1e308},
                                           {"mixtral", "rope_theta", 1e-308},
                                           {"mixtral", "layer_types", {"full_attention"}},
                                           {"olmoe", "clip_qkv", -1.0}};
    for (const auto& [family, key, value] : refusals) {
        nlohmann::json config = test::small_config(family);
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::corrupt_input) << family << ' ' << key << ": " << message;
        EXPECT_NE(message.find(key), std::string::npos) << message;
    }
}

TEST_F(ArchitectureTest, ReadsWindowsPerLayer) {
    using Windows = std::vector<index_t>;
    const auto windows = [&](const std::string& family, const nlohmann::json& changes) {
        nlohmann::json config = test::small_config(family);
        config.update(changes);
        return read(config).attention.windows;
    };
    EXPECT_EQ(windows("mixtral", {{"sliding_window", 8}}), (Windows{8, 8, 8}));
    EXPECT_EQ(windows("mixtral", {{"sliding_window", nullptr}}), (Windows{0, 0, 0}));
    EXPECT_EQ(windows("qwen3_moe", {{"use_sliding_window", true}, {"sliding_window", 8}}), (Windows{8, 8, 8}));
    EXPECT_EQ(windows("qwen3_moe", {{"use_sliding_window", false}, {"sliding_window", 8}}), (Windows{0, 0, 0}));
    EXPECT_EQ(windows("qwen2_moe", {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 2}}),
              (Windows{8, 0, 0}));
    EXPECT_EQ(windows("qwen2_moe", {{"use_sliding_window", true},
                                    {"sliding_window", 8},
                                    {"layer_types", {"full_attention", "sliding_attention", "full_attention"}}}),
              (Windows{0, 8, 0}));
}

TEST_F(ArchitectureTest, ReadsLatentAttentionAndItsScale) {
    nlohmann::json config = test::small_config("deepseek_v3");
    config["rope_scaling"] = {
        {"type", "yarn"},  {"factor", 40},   {"mscale", 0.5},     {"mscale_all_dim", 1.0},
        {"beta_fast", 16}, {"beta_slow", 2}, {"truncate", false}, {"original_max_position_embeddings", 32}};
    const Architecture architecture = read(config);
    const AttentionSettings& attention = architecture.attention;
    EXPECT_EQ(architecture.mixers,
              std::vector<MixerKind>(static_cast<std::size_t>(architecture.layers), MixerKind::latent_attention));
    EXPECT_EQ(attention.head_size, 9);
    EXPECT_EQ(attention.value_size, 3);
    EXPECT_EQ(attention.query_rank, 7);
    EXPECT_EQ(attention.rope.size, 4);
    EXPECT_TRUE(attention.rope.interleaved);
    EXPECT_FALSE(attention.rope.truncate);
    EXPECT_EQ(attention.rope.trained_positions, 32);
    EXPECT_EQ(attention.rope.beta_fast, 16);
    const double mscale = 0.1 * std::log(40.0) + 1;
    EXPECT_NEAR(attention.scale, mscale * mscale / 3, 1e-12);
    EXPECT_NEAR(attention.rope.attention_factor, (0.05 * std::log(40.0) + 1) / mscale, 1e-12);
    config["q_lora_rank"] = nullptr;
    EXPECT_EQ(read(config).attention.query_rank, 0);
}

/// Without mscale the attention factor follows the factor, which may be implied by the positions.
TEST_F(ArchitectureTest, ReadsYarnOfBothGenerations) {
    nlohmann::json config = transformers_5();
    config["rope_parameters"] = {
        {"rope_type", "yarn"}, {"rope_theta", 1e4}, {"factor", nullptr}, {"original_max_position_embeddings", 64}};
    const ops::RopeSettings five = read(config).attention.rope;
    EXPECT_EQ(five.factor, 8);
    EXPECT_NEAR(five.attention_factor, 0.1 * std::log(8.0) + 1, 1e-12);
    config.erase("rope_parameters");
    config["rope_theta"] = 1e4;
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 64}};
    const ops::RopeSettings four = read(config).attention.rope;
    EXPECT_EQ(four.factor, five.factor);
    EXPECT_EQ(four.theta, five.theta);
    EXPECT_EQ(four.attention_factor, five.attention_factor);
    config["rope_scaling"]["attention_factor"] = 1.5;
    EXPECT_EQ(read(config).attention.rope.attention_factor, 1.5);
}

TEST_F(ArchitectureTest, ReadsRoutersAndSharedExperts) {
    const Architecture v3 = read(test::small_config("deepseek_v3"));
    EXPECT_EQ(v3.router, (ops::RouterSettings{.scoring = ops::Scoring::sigmoid,
                                              .groups = 3,
                                              .chosen_groups = 2,
                                              .group_leaders = 2,
                                              .has_correction_bias = true,
                                              .normalize = true,
                                              .epsilon = 1e-20,
                                              .scale = 1.7}));
    EXPECT_EQ(v3.shared.intermediate, 20);
    EXPECT_FALSE(v3.shared.gated);
    EXPECT_EQ(v3.is_moe, (std::vector<bool>{false, true, true}));
    const Architecture v2 = read(test::small_config("deepseek_v2"));
    EXPECT_EQ(v2.router, (ops::RouterSettings{.groups = 3, .chosen_groups = 2, .scale = 1.7}));
    const Architecture qwen2 = read(test::small_config("qwen2_moe"));
    EXPECT_EQ(qwen2.shared.intermediate, 7);
    EXPECT_TRUE(qwen2.shared.gated);
    EXPECT_TRUE(qwen2.attention.input_bias);
    EXPECT_FALSE(qwen2.attention.output_bias);
    const Architecture mixtral = read(test::small_config("mixtral"));
    EXPECT_EQ(mixtral.router, ops::RouterSettings{.normalize = true});
    EXPECT_EQ(mixtral.expert_intermediate, 10);
    EXPECT_EQ(mixtral.expert_module(1, 3, mixtral.names.up), "model.layers.1.block_sparse_moe.experts.3.w3");
    const Architecture glm = read(test::small_config("glm4_moe"));
    EXPECT_EQ(glm.attention.rope.size, 4);
    EXPECT_EQ(glm.attention.norm, ops::HeadNorm::head);
}

}  // namespace
}  // namespace moesaic::model
