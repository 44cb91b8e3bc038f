// Training of the reference models on every process grid gives what one rank gives.
#include "model/weights/weights.hpp"
#include "support/grids.hpp"
#include "train/adapter_store.hpp"
#include "train/session.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

using mpi::Communicator;

/// Losses and gradient norms of some steps, and all gradients of the first (on rank 0).
struct Curve {
    std::vector<double> losses;
    std::vector<double> gradient_norms;
    std::map<std::string, std::vector<float>> gradients;
};

Curve train_case(const std::filesystem::path& folder, const Communicator& world, const mpi::GridShape& shape,
                 index_t batch_size, index_t chunks) {
    constexpr index_t steps = 3;
    const kernels::KernelSet kernels("portable");
    const mpi::ProcessGrid grid(world, shape);
    const model::Architecture architecture = model::read_architecture(folder);
    const Dataset data = load_dataset(world, folder / "train.jsonl", architecture.vocabulary, 1000);
    auto decoder = std::make_unique<model::Decoder<float>>(
        architecture,
        model::DecoderSettings{.lora = read_adapter_settings(folder / "adapter_init", architecture),
                               .max_tokens = data.largest_sum(batch_size),
                               .chunks = chunks},
        kernels, grid);
    const auto tensors = io::TensorSource::open_model(folder);
    decoder->load(model::CheckpointWeights<float>(tensors, architecture));
    TrainSettings settings;
    settings.steps = steps;
    settings.batches = {.batch_size = batch_size, .shuffle = false};
    settings.schedule = {.shape = ScheduleShape::constant, .learning_rate = 1e-3};
    TrainSession<float> session(std::move(decoder), data, settings, kernels, grid);
    session.start_from(folder / "adapter_init");
    Curve curve;
    for (index_t step = 0; step < steps; ++step) {
        const StepSummary summary = session.compute_gradients();
        if (step == 0) {
            session.for_each_gradient([&](const FullTensor& full) {
                const auto values = full.values.flat();
                curve.gradients[full.tensor->name].assign(values.begin(), values.end());
            });
        }
        const StepResult result = session.update(summary);
        curve.losses.push_back(result.decision.loss);
        curve.gradient_norms.push_back(result.decision.gradient_norm);
    }
    return curve;
}

double norm(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) {
        sum += double{value} * double{value};
    }
    return std::sqrt(sum);
}

void expect_same(const Curve& found, const Curve& expected) {
    constexpr double bound = 1e-5;
    for (std::size_t step = 0; step < expected.losses.size(); ++step) {
        EXPECT_NEAR(found.losses[step], expected.losses[step], bound * expected.losses[step]);
        EXPECT_NEAR(found.gradient_norms[step], expected.gradient_norms[step], bound * expected.gradient_norms[step]);
    }
    ASSERT_EQ(found.gradients.size(), expected.gradients.size());
    for (const auto& [name, values] : expected.gradients) {
        std::vector<float> difference = found.gradients.at(name);
        ASSERT_EQ(difference.size(), values.size());
        for (std::size_t i = 0; i < values.size(); ++i) {
            difference[i] -= values[i];
        }
        EXPECT_GT(norm(values), 0) << name;
        EXPECT_LE(norm(difference), bound * norm(values)) << name;
    }
}

class ReferenceCase : public testing::TestWithParam<std::string> {};

/// Batches of three are fewer sequences than four ranks. Larger ones travel to experts in several chunks.
TEST_P(ReferenceCase, TrainsAlikeOnEveryGrid) {
    const auto folder = std::filesystem::path(MOESAIC_TEST_DATA) / GetParam();
    const Communicator world = Communicator::world();
    for (const auto& [batch_size, chunks] : {std::pair<index_t, index_t>{3, 1}, {8, 3}}) {
        const Curve alone = train_case(folder, Communicator::self(), {}, batch_size, 1);
        for (const mpi::GridShape& shape : test::grids_of(world.size())) {
            SCOPED_TRACE(describe(shape));
            const Curve together = train_case(folder, world, shape, batch_size, chunks);
            if (world.is_root()) {
                expect_same(together, alone);
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Cases, ReferenceCase,
                         testing::Values("qwen3_moe", "qwen3_moe_attention", "mixtral", "deepseek_v3"));

}  // namespace
}  // namespace moesaic::train
