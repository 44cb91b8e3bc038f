// Every family's whole model: gradients against differences in double.
#include "support/gradient_check.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace moesaic::model {
namespace {

using test::expect_gradients_match;
using test::family_names;
using test::random_batch;
using test::read_config;
using test::small_architecture;
using test::small_config;
using test::SmallDecoder;

/// A family, and what its configuration has besides the usual.
struct FamilyCase {
    std::string family;
    nlohmann::json changes;  ///< an object
};

std::ostream& operator<<(std::ostream& out, const FamilyCase& c) {
    return out << c.family << ' ' << c.changes.dump();
}

class FamilyGradient : public testing::TestWithParam<FamilyCase> {};

/// Everything is adapted: gradients of lower layers pass through all that a layer can have. Dropout masks depend on the
/// token and the step alone, so that the loss stays a function of the factors.
TEST_P(FamilyGradient, MatchesDifferencesInDouble) {
    nlohmann::json config = small_config(GetParam().family);
    config.update(GetParam().changes);
    const Architecture architecture = read_config(config);
    const auto whole_buckets = static_cast<std::size_t>(architecture.layers);
    const auto expert_buckets = static_cast<std::size_t>(2 * architecture.moe_layers());
    for (const double dropout : {0.0, 0.4}) {
        LoraSettings lora = {
            2, 3.0, false, {LoraTarget::experts, LoraTarget::attention, LoraTarget::shared, LoraTarget::dense}};
        lora.dropout = dropout;
        lora.dropout_seed = 3;
        SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, {}, lora);
        ASSERT_EQ(model.decoder.lora().buckets.size(), whole_buckets + expert_buckets);
        expect_gradients_match(model, random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4),
                               dropout > 0);
    }
}

class BalanceGradient : public testing::TestWithParam<std::string> {};

/// The auxiliary loss outweighs the other.
TEST_P(BalanceGradient, MatchesDifferencesInDouble) {
    const Architecture architecture = small_architecture(GetParam());
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, {},
                               {2, 3.0, false, {LoraTarget::experts, LoraTarget::attention}}, 100.0);
    expect_gradients_match(model, random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4), true);
}
INSTANTIATE_TEST_SUITE_P(Families, BalanceGradient, testing::ValuesIn(family_names()));

/// Every family as it is, and what else a configuration of some of them may say.
std::vector<FamilyCase> family_cases() {
    std::vector<FamilyCase> cases = {
        FamilyCase{"mixtral", {{"sliding_window", 3}}},
        FamilyCase{"qwen2_moe", {{"use_sliding_window", true}, {"sliding_window", 2}, {"max_window_layers", 2}}},
        FamilyCase{"qwen3_moe", {{"attention_bias", true}, {"rope_scaling", {{"type", "linear"}, {"factor", 3.0}}}}},
        FamilyCase{"qwen3_moe",
                   {{"max_position_embeddings", 4}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 3.0}}}}},
        FamilyCase{"olmoe", {{"clip_qkv", 0.71}, {"attention_bias", true}}},
        FamilyCase{"olmoe", {{"norm_topk_prob", true}}},
        FamilyCase{"glm4_moe",
                   {{"rope_scaling",
                     {{"rope_type", "llama3"},
                      {"factor", 4.0},
                      {"low_freq_factor", 1.0},
                      {"high_freq_factor", 4.0},
                      {"original_max_position_embeddings", 16}}}}},
        FamilyCase{"deepseek_v2", {{"q_lora_rank", nullptr}}},
        FamilyCase{"deepseek_v2", {{"topk_method", "greedy"}, {"n_shared_experts", nullptr}}},
        FamilyCase{"deepseek_v3",
                   {{"attention_bias", true},
                    {"rope_scaling",
                     {{"type", "yarn"},
                      {"factor", 4.0},
                      {"mscale", 0.9},
                      {"mscale_all_dim", 0.7},
                      {"original_max_position_embeddings", 16}}}}},
        FamilyCase{"deepseek_v3", {{"rope_interleave", false}, {"norm_topk_prob", false}}},
        FamilyCase{"kimi_k2", {{"n_group", 1}, {"topk_group", 1}}}};
    for (const std::string& family : family_names()) {
        cases.push_back({family, nlohmann::json::object()});
    }
    return cases;
}
INSTANTIATE_TEST_SUITE_P(Families, FamilyGradient, testing::ValuesIn(family_cases()));

}  // namespace
}  // namespace moesaic::model
