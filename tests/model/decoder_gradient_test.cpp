// Gradients of the whole decoder against differences in double.
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>
#include <cmath>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::small_architecture;
using test::SmallDecoder;

/// Tied head, normalised routing weights, all layers MoE?
struct Variant {
    bool tied;
    bool normalize;
    bool all_moe;
    std::set<LoraTarget> targets;
    std::size_t buckets;
};

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    Architecture architecture = small_architecture();
    architecture.tied_head = GetParam().tied;
    architecture.normalize_expert_weights = GetParam().normalize;
    architecture.is_moe[0] = GetParam().all_moe;
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32, 0, {2, 3.0, true, GetParam().targets});
    const TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4);
    model.decoder.lora().clear_gradients();
    model.loss(batch, true);
    const auto objective = [&] {
        model.decoder.update_lora();
        return model.loss(batch, false);
    };
    ASSERT_EQ(model.decoder.lora().buckets.size(), GetParam().buckets);
    for (const auto& bucket : model.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (index_t i = tensor.offset; i < tensor.offset + tensor.size(); i += 11) {
                const double expected = test::central_difference(objective, bucket->values.data()[i]);
                EXPECT_NEAR(bucket->gradients.data()[i], expected, 1e-7 * (1 + std::abs(expected)))
                    << tensor.name << " element " << i;
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(
    Variants, DecoderGradient,
    testing::Values(Variant{true, true, false, {LoraTarget::experts}, 4},
                    Variant{false, true, true, {LoraTarget::experts}, 6},
                    Variant{false, false, false, {LoraTarget::attention}, 3},
                    Variant{false, true, false, {LoraTarget::dense}, 1},
                    Variant{false, true, false, {LoraTarget::experts, LoraTarget::attention, LoraTarget::dense}, 7}));

}  // namespace
}  // namespace moesaic::model
