// Gradients of the whole decoder against differences in double.
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::small_architecture;
using test::SmallDecoder;

/// tied head, normalised routing weights, all layers MoE?
struct Variant {
    bool tied;
    bool normalize;
    bool all_moe;
};

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    Architecture architecture = small_architecture();
    architecture.tied_head = GetParam().tied;
    architecture.normalize_expert_weights = GetParam().normalize;
    architecture.is_moe[0] = GetParam().all_moe;
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 32);
    const TokenBatch batch = random_batch(std::array<index_t, 3>{5, 1, 7}, architecture.vocabulary, 4);
    model.decoder.lora().clear_gradients();
    model.loss(batch, true);
    const auto objective = [&] {
        model.decoder.update_lora();
        return model.loss(batch, false);
    };
    ASSERT_EQ(model.decoder.lora().buckets.size(), GetParam().all_moe ? 6U : 4U);
    for (const auto& bucket : model.decoder.lora().buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (index_t i = tensor.offset; i < tensor.offset + tensor.size(); i += 7) {
                const double expected = test::central_difference(objective, bucket->values.data()[i]);
                EXPECT_NEAR(bucket->gradients.data()[i], expected, 2e-7) << tensor.name << " element " << i;
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Variants, DecoderGradient,
                         testing::Values(Variant{true, true, false}, Variant{false, true, true},
                                         Variant{false, false, false}));

}  // namespace
}  // namespace moesaic::model
