// Replicated weights once per host: the same numbers as in every rank's own memory, each read by one rank.
#include "model/weights/shared_weights.hpp"

#include "support/small_decoder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace moesaic::model {
namespace {

/// What ranks of this host share for a model.
template <class Scalar>
std::shared_ptr<mpi::HostMemory> memory_for(const Architecture& architecture, const mpi::ProcessGrid& grid) {
    const std::vector<LayerPlan> layers = plan_layers(architecture, {.lora = {}, .max_tokens = 8}, place_in(grid));
    return std::make_shared<mpi::HostMemory>(grid.world().split_by_node(),
                                             SharedWeights<Scalar>::bytes_of(architecture, layers));
}

template <class Scalar>
void load_shared(const Architecture& architecture, const WeightSource<Scalar>& source,
                 test::SmallDecoder<Scalar>& model) {
    const auto memory = memory_for<Scalar>(architecture, model.grid);
    model.decoder.load(SharedWeights<Scalar>(source, memory));
    memory->publish();
}

struct Outcome {
    double loss = 0;
    std::vector<float> gradients;

    friend bool operator==(const Outcome&, const Outcome&) = default;
};

template <class Scalar>
Outcome outcome_of(test::SmallDecoder<Scalar>& model, const ops::TokenBatch& batch) {
    model.decoder.lora().clear_gradients();
    Outcome outcome{model.loss(batch, true), {}};
    for (const auto& bucket : model.decoder.lora().buckets) {
        outcome.gradients.insert(outcome.gradients.end(), bucket->gradients.flat().begin(),
                                 bucket->gradients.flat().end());
    }
    return outcome;
}

template <class Scalar>
void expect_same_bits(const Architecture& architecture, const WeightSource<Scalar>& source) {
    const mpi::Communicator world = mpi::Communicator::world();
    const ops::TokenBatch batch = test::random_batch(std::array<index_t, 2>{5, 9}, architecture.vocabulary,
                                                     static_cast<std::uint64_t>(world.rank()));
    test::SmallDecoder<Scalar> model(architecture, world, 14 * world.size(), mpi::GridShape{.data = world.size()});
    model.decoder.load(source);
    const Outcome own = outcome_of(model, batch);
    load_shared(architecture, source, model);
    EXPECT_TRUE(outcome_of(model, batch) == own) << architecture.family;
}

TEST(SharedWeights, GiveTheSameBitsInAllFamilies) {
    for (const std::string& family : test::family_names()) {
        nlohmann::json config = test::small_config(family);
        for (const bool tied : {false, true}) {
            config["tie_word_embeddings"] = tied;
            config["vocab_size"] = 250;  // more blocks of rows than the head of a small model has
            const Architecture architecture = test::read_config(config);
            expect_same_bits(architecture, test::RandomWeights<float>());
            expect_same_bits(architecture, test::RandomWeights<core::bf16>());
        }
    }
}

/// Codes and their scales, whatever groups the rows of a rank cut.
TEST(SharedWeights, GiveTheSameBitsInAllStoredFormats) {
    std::vector<std::filesystem::path> cases = {MOESAIC_TEST_DATA "/deepseek_v3"};
    for (const auto& entry : std::filesystem::directory_iterator(MOESAIC_TEST_DATA "/quantised")) {
        cases.push_back(entry.path());
    }
    ASSERT_GT(cases.size(), 10U);
    for (const std::filesystem::path& folder : cases) {
        SCOPED_TRACE(folder);
        Architecture architecture = read_architecture(folder);
        const io::TensorSource tensors = io::TensorSource::open_model(folder);
        fit_to_checkpoint(tensors, architecture);
        expect_same_bits(architecture, CheckpointWeights<float>(tensors, architecture));
        expect_same_bits(architecture, CheckpointWeights<core::bf16>(tensors, architecture));
    }
}

/// Counts the elements of packed matrices that are asked for.
class CountingWeights final : public WeightSource<float> {
public:
    void read(const std::string& name, const TensorSlice& part, MatrixView<float> out) const override {
        const std::lock_guard lock(mutex_);
        counts_[name] += out.rows() * out.cols();
        random_.read(name, part, out);
    }
    void read_full_precision(const std::string& name, TensorRole role, MatrixView<float> out) const override {
        random_.read_full_precision(name, role, out);
    }
    [[nodiscard]] index_t count_of(const std::string& name) const {
        const auto found = counts_.find(name);
        return found == counts_.end() ? 0 : found->second;
    }

private:
    test::RandomWeights<float> random_;
    mutable std::mutex mutex_;
    mutable std::map<std::string, index_t> counts_;
};

TEST(SharedWeights, AreReadOncePerHost) {
    nlohmann::json config = test::small_config("qwen2_moe");
    config["vocab_size"] = 250;
    const Architecture architecture = test::read_config(config);
    const mpi::Communicator world = mpi::Communicator::world();
    test::SmallDecoder<float> model(architecture, world, 8 * world.size());
    const CountingWeights source;
    load_shared(architecture, source, model);
    const auto elements = [&](const std::string& name) { return world.sum(source.count_of(name)); };
    EXPECT_EQ(elements(embedding_name), architecture.vocabulary * architecture.hidden);
    EXPECT_EQ(elements(head_name), architecture.vocabulary * architecture.hidden);
    EXPECT_EQ(elements("model.layers.1.self_attn.o_proj.weight"), 4 * 6 * architecture.hidden);
    EXPECT_EQ(elements("model.layers.0.mlp.up_proj.weight"), architecture.dense_intermediate * architecture.hidden);
    const index_t share = source.count_of(embedding_name) / architecture.hidden;  // 8 blocks of rows, the last of 26
    EXPECT_NEAR(static_cast<double>(share), 256.0 / world.size(), 6);
}

TEST(SharedWeights, NeedTheMemoryThatTheyAskFor) {
    const Architecture architecture = test::small_architecture("qwen2_moe");
    const mpi::Communicator world = mpi::Communicator::world();
    test::SmallDecoder<float> model(architecture, world, 8 * world.size());
    const std::size_t needed = memory_for<float>(architecture, model.grid)->bytes().size();
    const auto less = std::make_shared<mpi::HostMemory>(world.split_by_node(), needed - 4096);
    const test::RandomWeights<float> random;
    EXPECT_THROW(model.decoder.load(SharedWeights<float>(random, less)), core::Error);
}

}  // namespace
}  // namespace moesaic::model
