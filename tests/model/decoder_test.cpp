// The whole decoder: gradients against differences in double, and the same mathematics at any rank count.
#include "model/decoder.hpp"
#include "model/loss.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace moesaic::model {
namespace {

using test::RandomWeights;
using test::random_batch;
using test::small_architecture;

/// LoRA factors with B different from zero, so that every gradient is.
template <class A>
void randomise(LoraParameters<A>& lora) {
    lora.initialise(5);
    for (const auto& bucket : lora.buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const MatrixView<A> all = bucket->view(tensor, bucket->values);
            const core::CounterRandom random(9, test::hash_of(tensor.name));
            for (index_t m = 0; m < tensor.count(); ++m) {
                for (index_t i = 0; i < tensor.local_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const index_t row = i + (tensor.sharding == Sharding::rows ? tensor.sharded_begin : 0);
                        const index_t col = j + (tensor.sharding == Sharding::columns ? tensor.sharded_begin : 0);
                        const auto index = static_cast<std::uint64_t>((m * tensor.rows + row) * tensor.cols + col);
                        all(m * tensor.local_rows + i, j) = static_cast<A>(0.3 * random.normal(index));
                    }
                }
            }
        }
    }
}

template <class T>
struct Model {
    using A = accumulator_t<T>;

    Model(const Architecture& architecture, const mpi::Communicator& world, index_t max_tokens)
        : kernels("portable"), grid(world, world.size(), 1),
          decoder(architecture, {2, 3.0, false}, kernels, grid, max_tokens) {
        decoder.load(RandomWeights<T>());
        randomise(decoder.lora());
        decoder.update_lora();
    }
    /// Sum of negative log-probabilities of this rank's targets; with gradients if asked for.
    double loss(const TokenBatch& batch, bool with_gradients) {
        const auto hidden = decoder.forward(batch, tape, with_gradients);
        const auto targets = targets_of(batch);
        Matrix<A> grad(with_gradients ? hidden.rows() : 0, hidden.cols());
        double sum = 0;
        for (const auto& result : cross_entropy<T>(kernels, hidden, decoder.head(), targets, 1.0, grad, scratch)) {
            sum -= result.log_probability;
        }
        if (with_gradients) {
            decoder.backward(batch, tape, grad);
        }
        return sum;
    }

    kernels::KernelSet kernels;
    mpi::ProcessGrid grid;
    Decoder<T> decoder;
    Tape<T> tape;
    LossScratch<T> scratch;
};

/// tied head, normalised routing weights, all layers MoE?
struct Variant {
    bool tied;
    bool normalize;
    bool all_moe;
};

class DecoderGradient : public testing::TestWithParam<Variant> {};

TEST_P(DecoderGradient, MatchesDifferencesInDouble) {
    if (mpi::Communicator::world().size() > 1) {
        GTEST_SKIP() << "needs one rank";
    }
    Architecture architecture = small_architecture();
    architecture.tied_head = GetParam().tied;
    architecture.normalize_expert_weights = GetParam().normalize;
    architecture.is_moe[0] = GetParam().all_moe;
    Model<double> model(architecture, mpi::Communicator::self(), 32);
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

/// Sequences of this rank when a batch is dealt out one by one.
TokenBatch deal(const std::vector<index_t>& lengths, const mpi::Communicator& world, index_t vocabulary) {
    TokenBatch mine;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        if (static_cast<int>(s) % world.size() == world.rank()) {
            const TokenBatch one = random_batch(std::array{lengths[s]}, vocabulary, 100 + s);
            mine.tokens.insert(mine.tokens.end(), one.tokens.begin(), one.tokens.end());
            mine.labels.insert(mine.labels.end(), one.labels.begin(), one.labels.end());
            mine.positions.insert(mine.positions.end(), one.positions.begin(), one.positions.end());
            mine.offsets.push_back(mine.rows());
        }
    }
    return mine;
}

/// Slices of an intermediate size of 10 are 10, 5 + 5 and 2 + 3 + 2 + 3; with one sequence some ranks have no rows.
TEST(DecoderRanks, GiveTheSameLossAndGradients) {
    const mpi::Communicator world = mpi::Communicator::world();
    const Architecture architecture = small_architecture();
    for (const std::vector<index_t>& lengths : {std::vector<index_t>{4, 9, 2, 6, 5}, std::vector<index_t>{8}}) {
        Model<double> alone(architecture, mpi::Communicator::self(), 40);
        Model<double> together(architecture, world, 40);
        alone.decoder.lora().clear_gradients();
        together.decoder.lora().clear_gradients();
        const double expected = alone.loss(deal(lengths, mpi::Communicator::self(), architecture.vocabulary), true);
        const double found = world.sum(together.loss(deal(lengths, world, architecture.vocabulary), true));
        EXPECT_NEAR(found, expected, 1e-10 * expected);
        for (std::size_t b = 0; b < alone.decoder.lora().buckets.size(); ++b) {
            ParameterBucket<double>& full = *alone.decoder.lora().buckets[b];
            ParameterBucket<double>& part = *together.decoder.lora().buckets[b];
            if (!part.sharded) {
                world.sum(part.gradients.flat());
            }
            for (std::size_t t = 0; t < part.tensors.size(); ++t) {
                const LoraTensor& tensor = part.tensors[t];
                const auto whole = full.view(full.tensors[t], full.gradients);
                const auto piece = part.view(tensor, part.gradients);
                for (index_t m = 0; m < tensor.count(); ++m) {
                    for (index_t i = 0; i < tensor.local_rows; ++i) {
                        for (index_t j = 0; j < tensor.local_cols; ++j) {
                            const index_t row = i + (tensor.sharding == Sharding::rows ? tensor.sharded_begin : 0);
                            const index_t col = j + (tensor.sharding == Sharding::columns ? tensor.sharded_begin : 0);
                            ASSERT_NEAR(piece(m * tensor.local_rows + i, j), whole(m * tensor.rows + row, col), 1e-10)
                                << tensor.name;
                        }
                    }
                }
            }
        }
    }
}

TEST(DecoderPrecision, Fp32IsNearDoubleAndBf16IsNearFp32) {
    const mpi::Communicator self = mpi::Communicator::self();
    const Architecture architecture = small_architecture();
    const TokenBatch batch = random_batch(std::array<index_t, 2>{9, 12}, architecture.vocabulary, 4);
    const double reference = Model<double>(architecture, self, 32).loss(batch, false);
    const double fp32 = Model<float>(architecture, self, 32).loss(batch, false);
    const double bf16 = Model<core::bf16>(architecture, self, 32).loss(batch, false);
    EXPECT_NEAR(fp32, reference, 1e-5 * reference);
    EXPECT_NEAR(bf16, fp32, 1e-2 * fp32);
    EXPECT_NE(bf16, fp32);
}

}  // namespace
}  // namespace moesaic::model
