// Gradients of the whole decoder against differences in double.
#include "support/gradient_check.hpp"

#include <gtest/gtest.h>
#include <cmath>

#include <cmath>

namespace moesaic::model {
namespace {

using test::expect_gradients_match;
using test::random_batch;
using test::small_architecture;
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
    ops::Activations activations = ops::Activations::retain;
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

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    const Variant& variant = GetParam();
    Architecture architecture = small_architecture();
    architecture.tied_head = variant.tied_head;
    architecture.router.normalize = variant.normalize;
    architecture.is_moe[0] = variant.all_moe;
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, {}, variant.lora, 0, variant.activations);
    ASSERT_EQ(model.decoder.lora().buckets.size(), variant.buckets);
    // Only saved passes have dropout.
    expect_gradients_match(model, random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4),
                           variant.lora.dropout > 0);
}
INSTANTIATE_TEST_SUITE_P(
    Variants, DecoderGradient,
    testing::Values(Variant{"experts", adapting({experts}), 4, true},
                    Variant{"all_layers_moe", adapting({experts}), 6, false, true, true},
                    Variant{"attention", adapting({attention}), 3, false, false},
                    Variant{"dense", adapting({dense}), 1},
                    Variant{"dropout", adapting({experts, attention, dense}, 0.4), 7},
                    Variant{"patterns", with_patterns(0), 7},
                    Variant{"recompute", with_patterns(0.3), 7, false, true, false, ops::Activations::recompute},
                    Variant{"layer", with_patterns(0.3), 7, false, true, false, ops::Activations::layer}),
    [](const auto& variant) { return variant.param.name; });

TEST(DecoderPadding, HasNoGradient) {
    SmallDecoder<double> model(small_architecture(), mpi::Communicator::self(), 32, {}, with_patterns(0.2));
    model.decoder.lora().clear_gradients();
    model.loss(random_batch(std::array<index_t, 1>{9}, 29, 4), true);
    index_t padding = 0;
    for (const auto& bucket : model.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const auto all = bucket->view(tensor, bucket->gradients);
            for (index_t i = 0; i < all.rows(); ++i) {
                for (index_t j = 0; j < all.cols(); ++j) {
                    const index_t of_rank = tensor.factor == ops::LoraFactor::a ? i % tensor.local_rows : j;
                    if (of_rank >= tensor.lora_rank_of(i / tensor.local_rows)) {
                        EXPECT_EQ(all(i, j), 0) << tensor.name;
                        ++padding;
                    }
                }
            }
        }
    }
    EXPECT_GT(padding, 0);
}

}  // namespace
}  // namespace moesaic::model
