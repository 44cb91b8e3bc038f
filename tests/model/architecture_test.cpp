// Reading config.json.
#include "model/architecture.hpp"
#include "core/error.hpp"

#include <gtest/gtest.h>

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
        {"attention_bias", true},
        {"use_sliding_window", true},
        {"attention_dropout", 0.1},
        {"quantization_config", {{"quant_method", "awq"}}},
        {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}}};
    for (const auto& [key, value] : changes) {
        nlohmann::json config = transformers_5();
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::usage) << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
        EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    }
}

TEST_F(ArchitectureTest, NamesMissingAndWrongFields) {
    for (const std::string key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                                  "moe_intermediate_size", "num_experts_per_tok", "rms_norm_eps", "model_type"}) {
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
        {"num_experts_per_tok", 9}, {"num_key_value_heads", 3},     {"head_dim", 31},
        {"hidden_size", -1},        {"num_hidden_layers", 0},       {"vocab_size", 1e99},
        {"rms_norm_eps", -1.0},     {"num_local_experts", 1u << 31}};
    for (const auto& [key, value] : changes) {
        nlohmann::json config = transformers_5();
        config[key] = value;
        const auto [code, message] = error_of(config);
        EXPECT_EQ(code, ExitCode::corrupt_input) << key;
        EXPECT_NE(message.find(key), std::string::npos) << message;
    }
}

}  // namespace
}  // namespace moesaic::model
