// Gradients of the whole decoder against differences in double.
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>
#include <cmath>

#include <cmath>
#include <numeric>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::read_config;
using test::small_architecture;
using test::small_config;
using test::SmallDecoder;

/// Tied head, normalised routing weights, all layers MoE?
struct Variant {
    bool tied;
    bool normalize;
    bool all_moe;
    std::set<LoraTarget> targets;
    std::size_t buckets;
};

/// Moves all elements of a tensor along a random direction of length 1 and compares the loss's change with what its
/// gradients say, for one tensor after the other.
void expect_gradients_match(const Architecture& architecture, const LoraSettings& lora, std::size_t buckets) {
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, 0, lora);
    const TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4);
    model.decoder.lora().clear_gradients();
    model.loss(batch, true);
    ASSERT_EQ(model.decoder.lora().buckets.size(), buckets);
    for (const auto& bucket : model.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const auto size = static_cast<std::size_t>(tensor.size());
            const double length = std::sqrt(static_cast<double>(size));
            const Matrix<double> direction =
                test::random_matrix<double>(1, tensor.size(), test::hash_of(tensor.name), 1 / length);
            const std::span<double> values =
                bucket->values.flat().subspan(static_cast<std::size_t>(tensor.offset), size);
            const std::vector<double> start(values.begin(), values.end());
            const auto loss_at = [&](double& distance) {
                for (std::size_t i = 0; i < size; ++i) {
                    values[i] = start[i] + distance * direction.data()[i];
                }
                model.decoder.update_lora();
                return model.loss(batch, false);
            };
            double distance = 0;
            const double expected = test::central_difference([&] { return loss_at(distance); }, distance);
            loss_at(distance);
            const double found = std::inner_product(direction.data(), direction.data() + size,
                                                    bucket->gradients.data() + tensor.offset, 0.0);
            EXPECT_NEAR(found, expected, 1e-7 * (1 + std::abs(expected))) << tensor.name;
        }
    }
}

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    Architecture architecture = small_architecture();
    architecture.tied_head = GetParam().tied;
    architecture.router.normalize = GetParam().normalize;
    architecture.is_moe[0] = GetParam().all_moe;
    expect_gradients_match(architecture, {2, 3.0, true, GetParam().targets}, GetParam().buckets);
}
INSTANTIATE_TEST_SUITE_P(
    Variants, DecoderGradient,
    testing::Values(Variant{true, true, false, {LoraTarget::experts}, 4},
                    Variant{false, true, true, {LoraTarget::experts}, 6},
                    Variant{false, false, false, {LoraTarget::attention}, 3},
                    Variant{false, true, false, {LoraTarget::dense}, 1},
                    Variant{false, true, false, {LoraTarget::experts, LoraTarget::attention, LoraTarget::dense}, 7}));

/// A family, and what its configuration has besides the usual.
struct FamilyCase {
    std::string family;
    nlohmann::json changes;
};

std::ostream& operator<<(std::ostream& out, const FamilyCase& c) {
    return out << c.family << ' ' << c.changes.dump();
}

class FamilyGradient : public testing::TestWithParam<FamilyCase> {};

/// Attention is adapted too: its lower layers' gradients pass through everything that a layer can have.
TEST_P(FamilyGradient, MatchesDifferencesInDouble) {
    nlohmann::json config = small_config(GetParam().family);
    config.update(GetParam().changes);
    const Architecture architecture = read_config(config);
    const auto whole_buckets = static_cast<std::size_t>(architecture.layers);
    const auto expert_buckets = static_cast<std::size_t>(2 * architecture.moe_layers());
    expect_gradients_match(
        architecture,
        {2, 3.0, false, {LoraTarget::experts, LoraTarget::attention, LoraTarget::shared, LoraTarget::dense}},
        whole_buckets + expert_buckets);
}
INSTANTIATE_TEST_SUITE_P(
    Families, FamilyGradient,
    testing::Values(
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
        FamilyCase{"kimi_k2", {{"n_group", 1}, {"topk_group", 1}}}));

}  // namespace
}  // namespace moesaic::model
