// The whole decoder gives the same mathematics at any rank count.
#include "support/grids.hpp"
#include "support/small_decoder.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace moesaic::model {
namespace {

using test::random_batch;
using test::small_architecture;
using test::SmallDecoder;

/// Sequences of this rank when a batch is dealt out one by one.
ops::TokenBatch deal(const std::vector<index_t>& lengths, const mpi::Communicator& world, index_t vocabulary) {
    ops::TokenBatch mine;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        if (static_cast<int>(s) % world.size() == world.rank()) {
            const ops::TokenBatch one = random_batch(std::array{lengths[s]}, vocabulary, 100 + s);
            mine.tokens.insert(mine.tokens.end(), one.tokens.begin(), one.tokens.end());
            mine.labels.insert(mine.labels.end(), one.labels.begin(), one.labels.end());
            mine.positions.insert(mine.positions.end(), one.positions.begin(), one.positions.end());
            mine.offsets.push_back(mine.rows());
            mine.sequence_ids.push_back(static_cast<index_t>(s));
        }
    }
    return mine;
}

LoraSettings everywhere_with_dropout() {
    LoraSettings settings = test::adapters_everywhere();
    settings.dropout = 0.3;
    return settings;
}

/// Compares loss and gradients of a batch that is dealt out to the ranks with those of one rank alone.
void expect_same_as_alone(const Architecture& architecture, const mpi::GridShape& shape,
                          const std::vector<index_t>& lengths, double aux) {
    SCOPED_TRACE(describe(shape));
    const mpi::Communicator world = mpi::Communicator::world();
    const LoraSettings lora = aux > 0 ? LoraSettings{2, 3.0} : everywhere_with_dropout();
    SmallDecoder<double> alone(architecture, mpi::Communicator::self(), 40, {}, lora, aux);
    SmallDecoder<double> together(architecture, world, 40, shape, lora, aux);
    alone.decoder.lora().clear_gradients();
    together.decoder.lora().clear_gradients();
    const double expected = alone.loss(deal(lengths, mpi::Communicator::self(), architecture.vocabulary), true);
    const double found = world.sum(together.loss(deal(lengths, world, architecture.vocabulary), true));
    EXPECT_NEAR(found, expected, 1e-10 * expected);
    for (std::size_t b = 0; b < alone.decoder.lora().buckets.size(); ++b) {
        ParameterBucket<double>& full = *alone.decoder.lora().buckets[b];
        ParameterBucket<double>& part = *together.decoder.lora().buckets[b];
        group_of(together.grid, part.holders).sum(part.gradients.flat());
        for (std::size_t t = 0; t < part.tensors.size(); ++t) {
            const LoraTensor& tensor = part.tensors[t];
            const auto whole = full.view(full.tensors[t], full.gradients);
            for (index_t m = tensor.held.begin; m < tensor.held.end(); ++m) {
                const auto piece = part.matrix(tensor, m, part.gradients);
                for (index_t i = 0; i < tensor.local_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const double expected_gradient =
                            whole(m * tensor.rows + tensor.row_begin() + i, tensor.col_begin() + j);
                        ASSERT_NEAR(piece(i, j), expected_gradient, 1e-10) << tensor.name;
                    }
                }
            }
        }
    }
}

class DecoderRanks : public testing::TestWithParam<std::string> {};

/// Slices of an intermediate size of 10 are 10, 5 + 5 and 2 + 3 + 2 + 3; groups of 5 or 6 experts are uneven. With one
/// sequence some ranks have no rows, and a single token leaves experts without any.
TEST_P(DecoderRanks, GiveTheSameLossAndGradients) {
    const Architecture architecture = small_architecture(GetParam());
    for (const mpi::GridShape& shape : test::grids_of(mpi::Communicator::world().size())) {
        expect_same_as_alone(architecture, shape, {4, 9, 2, 6, 5}, 0);
        expect_same_as_alone(architecture, shape, {8}, 10.0);
        expect_same_as_alone(architecture, shape, {1}, 0);
    }
}

/// Gradients of a batch that is dealt out to the ranks, bucket by bucket.
template <class Scalar>
std::vector<std::vector<accumulator_t<Scalar>>> gradients_of(const Architecture& architecture,
                                                             const mpi::GridShape& shape,
                                                             const std::vector<index_t>& lengths, double aux,
                                                             ops::Activations activations, index_t chunks) {
    const mpi::Communicator world = mpi::Communicator::world();
    SmallDecoder<Scalar> model(architecture, world, 40, shape, everywhere_with_dropout(), aux, activations, "auto",
                               chunks);
    model.decoder.lora().clear_gradients();
    model.loss(deal(lengths, world, architecture.vocabulary), true);
    std::vector<std::vector<accumulator_t<Scalar>>> gradients;
    for (const auto& bucket : model.decoder.lora().buckets) {
        const auto all = bucket->gradients.flat();
        gradients.emplace_back(all.begin(), all.end());
    }
    return gradients;
}

template <class Scalar>
void expect_same_if_computed_again(const Architecture& architecture, const mpi::GridShape& shape,
                                   const std::vector<index_t>& lengths, double aux, index_t chunks) {
    SCOPED_TRACE(testing::Message() << describe(shape) << ", " << chunks << " chunks, " << sizeof(Scalar) << " bytes");
    const auto gradients = [&](ops::Activations activations) {
        return gradients_of<Scalar>(architecture, shape, lengths, aux, activations, chunks);
    };
    EXPECT_EQ(gradients(ops::Activations::layer), gradients(ops::Activations::retain));
}

/// To the bit: also the rounding and the routing of a layer are those of its forward. Some ranks may have no rows.
TEST_P(DecoderRanks, GiveTheSameGradientsIfLayersAreComputedAgain) {
    const Architecture architecture = small_architecture(GetParam());
    for (const mpi::GridShape& shape : test::grids_of(mpi::Communicator::world().size())) {
        expect_same_if_computed_again<core::bf16>(architecture, shape, {4, 9, 2, 6, 5}, 10.0, 0);
        expect_same_if_computed_again<core::bf16>(architecture, shape, {8}, 0, 3);
        expect_same_if_computed_again<float>(architecture, shape, {4, 9, 2, 6, 5}, 0, 3);
    }
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderRanks, testing::ValuesIn(test::family_names()));

/// The table depends on the longest sequence of all ranks.
TEST(DecoderRanks, AgreeOnDynamicRope) {
    const mpi::Communicator world = mpi::Communicator::world();
    nlohmann::json config = test::small_config("qwen3_moe");
    config["max_position_embeddings"] = 4;
    config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 3.0}};
    const Architecture architecture = test::read_config(config);
    const std::vector<index_t> lengths = {4, 9, 2, 6, 5};
    SmallDecoder<double> alone(architecture, mpi::Communicator::self(), 40);
    SmallDecoder<double> together(architecture, world, 40, mpi::GridShape{.data = world.size()});
    const double expected = alone.loss(deal(lengths, mpi::Communicator::self(), architecture.vocabulary), false);
    const double found = world.sum(together.loss(deal(lengths, world, architecture.vocabulary), false));
    EXPECT_NEAR(found, expected, 1e-10 * expected);
}

/// A batch in one pass or sequence by sequence, in another optimizer step or without dropout.
TEST(DecoderDropout, DependsOnTheTokenAndTheStepAlone) {
    const Architecture architecture = small_architecture();
    SmallDecoder<double> model(architecture, mpi::Communicator::self(), 40, {}, everywhere_with_dropout());
    const std::vector<index_t> lengths = {4, 9, 6};
    ops::TokenBatch batch = deal(lengths, mpi::Communicator::self(), architecture.vocabulary);
    const double whole = model.loss(batch, true);
    double parts = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        ops::TokenBatch one = random_batch(std::array{lengths[s]}, architecture.vocabulary, 100 + s);
        one.sequence_ids = {static_cast<index_t>(s)};
        parts += model.loss(one, true);
    }
    EXPECT_NEAR(parts, whole, 1e-11 * whole);
    EXPECT_EQ(model.loss(batch, true), whole);
    const double without = model.loss(batch, false);
    EXPECT_GT(std::abs(without - whole), 1e-3);
    batch.step = 1;
    EXPECT_GT(std::abs(model.loss(batch, true) - whole), 1e-3);
    batch.step = 0;
    batch.sequence_ids = {0, 1, 5};
    EXPECT_GT(std::abs(model.loss(batch, true) - whole), 1e-3);
}

class DecoderPrecision : public testing::TestWithParam<std::string> {};

/// Every token goes to all experts, so that rounding can't change the choice.
TEST_P(DecoderPrecision, Fp32IsNearDoubleAndBf16IsNearFp32) {
    const mpi::Communicator self = mpi::Communicator::self();
    Architecture architecture = small_architecture(GetParam());
    architecture.experts_per_token = architecture.experts;
    architecture.router.groups = 1;
    const ops::TokenBatch batch = random_batch(std::array<index_t, 2>{9, 12}, architecture.vocabulary, 4);
    const double reference = SmallDecoder<double>(architecture, self, 32).loss(batch, false);
    const double fp32 = SmallDecoder<float>(architecture, self, 32).loss(batch, false);
    const double bf16 = SmallDecoder<core::bf16>(architecture, self, 32).loss(batch, false);
    EXPECT_NEAR(fp32, reference, 1e-5 * reference);
    EXPECT_NEAR(bf16, fp32, 1e-2 * fp32);
    EXPECT_NE(bf16, fp32);
}
INSTANTIATE_TEST_SUITE_P(Families, DecoderPrecision, testing::ValuesIn(test::family_names()));

}  // namespace
}  // namespace moesaic::model
