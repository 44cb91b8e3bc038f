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

constexpr LoraTarget experts = LoraTarget::experts;
constexpr LoraTarget attention = LoraTarget::attention;
constexpr LoraTarget dense = LoraTarget::dense;

struct Variant {
    std::string name;
    LoraSettings lora;
    std::size_t buckets;
    bool tied_head = false;
    bool normalize = true;
    bool all_moe = false;
    Activations activations = Activations::retain;
};

LoraSettings adapting(const std::set<LoraTarget>& targets, double dropout = 0) {
    LoraSettings settings{2, 3.0, false, targets};
    settings.dropout = dropout;
    settings.dropout_seed = 3;
    return settings;
}

/// Other ranks for single modules, a single expert among them, and no adapter smaller than its padding.
LoraSettings with_patterns(double dropout) {
    LoraSettings settings = adapting({experts, attention, dense}, dropout);
    settings.rank_stabilised = true;
    settings.rank_pattern =
        ModulePatterns::parse("rank_pattern", "q_proj=1,layers.1.mlp.experts.3.gate_proj=4,experts.\\d+.down_proj=1");
    settings.alpha_pattern = ModulePatterns::parse("alpha_pattern", "v_proj=5,mlp.experts.2.up_proj=0.5");
    return settings;
}

/// Moves all elements of a tensor along a random direction of length 1 and compares the loss's change with what its
/// gradients say, for one tensor after the other.
void expect_gradients_match(const Architecture& architecture, const LoraSettings& lora, std::size_t buckets,
                            double aux = 0, Activations activations = Activations::retain) {
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, 0, lora, aux, activations);
    const TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4);
    model.decoder.lora().clear_gradients();
    model.loss(batch, true);
    ASSERT_EQ(model.decoder.lora().buckets.size(), buckets);
    std::vector<std::vector<double>> all_gradients;  // before further passes add to them
    for (const auto& bucket : model.decoder.lora().buckets) {
        const std::span<const double> gradients = bucket->gradients.flat();
        all_gradients.emplace_back(gradients.begin(), gradients.end());
    }
    for (std::size_t b = 0; b < buckets; ++b) {
        const auto& bucket = model.decoder.lora().buckets[b];
        const std::vector<double>& gradients = all_gradients[b];
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
                return model.loss(batch, aux > 0 || lora.dropout > 0);  // what only passes with gradients have
            };
            double distance = 0;
            const double found =
                std::inner_product(direction.data(), direction.data() + size, gradients.data() + tensor.offset, 0.0);
            const double expected = test::central_difference([&] { return loss_at(distance); }, distance);
            loss_at(distance);
            EXPECT_NEAR(found, expected, 1e-7 * (1 + std::abs(expected))) << tensor.name;
        }
    }
}

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    const Variant& variant = GetParam();
    Architecture architecture = small_architecture();
    architecture.tied_head = variant.tied_head;
    architecture.router.normalize = variant.normalize;
    architecture.is_moe[0] = variant.all_moe;
    expect_gradients_match(architecture, variant.lora, variant.buckets, 0, variant.activations);
}
INSTANTIATE_TEST_SUITE_P(Variants, DecoderGradient,
                         testing::Values(Variant{"experts", adapting({experts}), 4, true},
                                         Variant{"all_layers_moe", adapting({experts}), 6, false, true, true},
                                         Variant{"attention", adapting({attention}), 3, false, false},
                                         Variant{"dense", adapting({dense}), 1},
                                         Variant{"dropout", adapting({experts, attention, dense}, 0.4), 7},
                                         Variant{"patterns", with_patterns(0), 7},
                                         Variant{"recompute", with_patterns(0.3), 7, false, true, false,
                                                 Activations::recompute}),
                         [](const auto& variant) { return variant.param.name; });

TEST(DecoderPadding, HasNoGradient) {
    SmallDecoder<double> model(small_architecture(), mpi::Communicator::self(), 32, 0, with_patterns(0.2));
    model.decoder.lora().clear_gradients();
    model.loss(random_batch(std::array<index_t, 1>{9}, 29, 4), true);
    index_t padding = 0;
    for (const auto& bucket : model.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const auto all = bucket->view(tensor, bucket->gradients);
            for (index_t i = 0; i < all.rows(); ++i) {
                for (index_t j = 0; j < all.cols(); ++j) {
                    const index_t of_rank = tensor.factor == LoraFactor::a ? i % tensor.local_rows : j;
                    if (of_rank >= tensor.rank_of(i / tensor.local_rows)) {
                        EXPECT_EQ(all(i, j), 0) << tensor.name;
                        ++padding;
                    }
                }
            }
        }
    }
    EXPECT_GT(padding, 0);
}

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

class BalanceGradient : public testing::TestWithParam<std::string> {};

/// The auxiliary loss outweighs the other.
TEST_P(BalanceGradient, MatchesDifferencesInDouble) {
    const Architecture architecture = small_architecture(GetParam());
    expect_gradients_match(architecture, {2, 3.0, false, {LoraTarget::experts, LoraTarget::attention}}, 7, 100.0);
}
INSTANTIATE_TEST_SUITE_P(Families, BalanceGradient, testing::Values("qwen3_moe", "deepseek_v2", "deepseek_v3"));

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
