// Predicted times of steps: what they are made of, and in which order they put the grids of known cases.
#include "train/step_cost.hpp"

#include "model/weights/synthetic.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace moesaic::train {
namespace {

/// A rank of so many on a host with 16 cores and AMX, much as one was measured.
MachineRates rates(index_t host_ranks = 4) {
    const auto ranks = static_cast<double>(host_ranks);
    return {.limits = {2e13 / ranks, 8e10 / ranks},
            .threads = 16 / host_ranks,
            .host = {.gather = 3e9, .sum = 3e8, .latency = 2e-5},
            .network = {.gather = 1e9, .sum = 1e8, .latency = 5e-5},
            .efficiency = usual_efficiency(kernels::Isa::amx),
            .source = "test"};
}

model::Architecture layers_of(const std::string& name, index_t layers) {
    model::Architecture architecture = model::synthetic_architecture(name);
    architecture.limit_layers(layers);
    return architecture;
}

StepsToCome steps_on(const mpi::GridShape& grid, index_t host_ranks) {
    return {
        .grid = grid, .host_ranks = host_ranks, .threads = 16 / host_ranks, .batch_size = 16, .sequence_length = 512};
}

StepCost cost_of(const model::Architecture& architecture, const StepsToCome& steps,
                 const MachineRates& machine = rates()) {
    return CostModel(architecture, {.rank = 16}).of(steps, machine);
}

/// The grid of the least predicted time.
mpi::GridShape best(const model::Architecture& architecture, const StepsToCome& steps, index_t ranks,
                    const MachineRates& machine = rates()) {
    const CostModel model(architecture, {.rank = 16});
    std::vector<mpi::GridShape> grids = mpi::grids_of({}, ranks);
    std::erase_if(grids, [&](const mpi::GridShape& grid) { return grid.expert > architecture.experts; });
    const auto seconds = [&](const mpi::GridShape& grid) {
        StepsToCome on_grid = steps;
        on_grid.grid = grid;
        return model.of(on_grid, machine).total();
    };
    return *std::min_element(grids.begin(), grids.end(),
                             [&](const mpi::GridShape& a, const mpi::GridShape& b) { return seconds(a) < seconds(b); });
}

TEST(StepCost, ManySmallExpertsOnOneHostAreSpreadOverGroups) {
    const model::Architecture qwen = layers_of("qwen3-30b-a3b", 4);
    for (const index_t ranks : {2, 4, 8, 16}) {
        EXPECT_EQ(best(qwen, steps_on({}, ranks), ranks, rates(ranks)), (mpi::GridShape{1, ranks, 1})) << ranks;
    }
}

/// The measured order of docs/benchmarking.md: groups, then slices, then replicas, which read all experts for few rows.
TEST(StepCost, ReplicasOfManyExpertsReadMoreThanTheyCompute) {
    const model::Architecture qwen = layers_of("qwen3-30b-a3b", 2);
    const auto seconds = [&](const mpi::GridShape& grid) {
        StepsToCome steps = steps_on(grid, grid.ranks());
        steps.batch_size = 4;
        return cost_of(qwen, steps, rates(grid.ranks())).total();
    };
    EXPECT_LT(1.1 * seconds({1, 4, 1}), seconds({1, 1, 4}));
    EXPECT_LT(1.05 * seconds({1, 1, 4}), seconds({4, 1, 1}));
    EXPECT_LT(1.1 * seconds({1, 2, 1}), seconds({2, 1, 1}));
    EXPECT_LT(1.1 * seconds({1, 2, 1}), seconds({1, 1, 2}));
}

/// One expert of eight gets every token: its group has most to do, whereas slices share it.
TEST(StepCost, FewLargeExpertsWithAHotOneAreSliced) {
    const model::Architecture mixtral = layers_of("mixtral-8x7b", 2);
    StepsToCome steps = steps_on({}, 4);
    steps.popularity = {0.5, 0.5 / 7, 0.5 / 7, 0.5 / 7, 0.5 / 7, 0.5 / 7, 0.5 / 7, 0.5 / 7};
    const auto seconds = [&](const mpi::GridShape& grid) {
        steps.grid = grid;
        return cost_of(mixtral, steps).total();
    };
    EXPECT_LT(seconds({1, 1, 8}), 0.7 * seconds({1, 8, 1}));
    steps.popularity.clear();
    EXPECT_LT(seconds({1, 8, 1}), 1.1 * seconds({1, 1, 8}));
}

/// Two hosts of four ranks. Gradients are the same however many rows a step has: over a slow network rows of many
/// tokens stay on their host. Over a fast one groups span both hosts.
TEST(StepCost, SlowNetworksKeepRowsOnTheirHosts) {
    const model::Architecture qwen = layers_of("qwen3-30b-a3b", 4);
    StepsToCome steps = steps_on({}, 4);
    steps.batch_size = 256;
    MachineRates slow = rates();
    slow.network = {.gather = 5e7, .sum = 5e7, .latency = 1e-4};
    EXPECT_EQ(best(qwen, steps, 8, slow), (mpi::GridShape{2, 4, 1}));
    steps.batch_size = 16;
    steps.chunks = 1;
    MachineRates fast = rates();
    fast.network = fast.host;
    EXPECT_EQ(best(qwen, steps, 8, fast), (mpi::GridShape{1, 8, 1}));
}

/// Five sequences on four ranks take as long as eight, and the first replica has more of them than the second one.
TEST(StepCost, SequencesAreIndivisible) {
    const model::Architecture qwen = layers_of("qwen3-30b-a3b", 2);
    StepsToCome steps = steps_on({4, 1, 1}, 4);
    const auto cost = [&](index_t sequences) {
        steps.batch_size = sequences;
        return cost_of(qwen, steps);
    };
    EXPECT_DOUBLE_EQ(cost(5).total(), cost(8).total());
    EXPECT_GT(cost(9).total(), 1.2 * cost(8).total());
    EXPECT_EQ(cost(4).exchange, 0);
    steps.grid = {2, 2, 1};
    EXPECT_LT(cost(5).experts, cost(8).experts);  // three of five, or four of eight sequences
    EXPECT_DOUBLE_EQ(cost(5).other, cost(8).other);
    steps.batch_size = 16;
    const double at_once = cost(16).total();
    steps.micro_batch = 1;
    EXPECT_EQ(steps.passes(), 4);
    EXPECT_GT(cost(16).total(), at_once);  // weights are read for every pass
}

TEST(StepCost, PassesWithoutTrainingAreForwardAlone) {
    const model::Architecture qwen = layers_of("qwen3-30b-a3b", 2);
    StepsToCome steps = steps_on({1, 2, 2}, 4);
    const StepCost training = cost_of(qwen, steps);
    steps.training = false;
    const StepCost forward = cost_of(qwen, steps);
    EXPECT_DOUBLE_EQ(forward.experts, training.experts / 2);
    EXPECT_LT(forward.exchange, training.exchange);
    EXPECT_EQ(forward.reduction, 0);
    steps.training = true;
    steps.activations = ops::Activations::recompute;
    const StepCost recomputed = cost_of(qwen, steps);
    EXPECT_NEAR(recomputed.experts, training.experts * (2 + 2.0 / 3) / 2, 1e-9);
    EXPECT_EQ(recomputed.other, training.other);
    steps.activations = ops::Activations::layer;
    EXPECT_EQ(cost_of(qwen, steps).experts, recomputed.experts);
    EXPECT_GT(cost_of(qwen, steps).other, training.other);
    EXPECT_LT(cost_of(qwen, steps).other, training.other + forward.other);  // the head is not computed again
}

/// 20 columns on 2 ranks are slices of 10, which cost as much as 32 whole ones, and so do those of 4 ranks.
TEST(StepCost, SlicesArePaddedToBlocks) {
    model::Architecture narrow = layers_of("qwen3-30b-a3b", 1);
    narrow.expert_intermediate = 96;
    const auto experts = [&](index_t tensor) { return cost_of(narrow, steps_on({1, 1, tensor}, 8)).experts; };
    EXPECT_DOUBLE_EQ(experts(4), experts(8));
    EXPECT_LT(experts(3), experts(2));
}

TEST(StepWork, ScoresOfAttentionFollowWindows) {
    model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    // QK and PV of 32 heads of 128: 2 operations, half of all pairs, and backward five products for two.
    const double expected = 4 * 48 * 32.0 * (128 + 128) / 4 * 1e6 * 3.5;
    EXPECT_NEAR(ModelWork(architecture).score_operations(1000), expected, 1e-9 * expected);
    architecture.attention.windows.assign(48, 100);
    EXPECT_LT(ModelWork(architecture).score_operations(1000), 0.2 * expected);
}

/// Where few tokens come, weights are read and hardly used.
TEST(StepWork, FewerBitsAreReadSooner) {
    model::Architecture architecture = model::synthetic_architecture("mixtral-8x7b");
    const auto bytes = [&](ops::WeightFormat format) {
        architecture.stored.experts = format;
        return even_work(architecture, {1, 1, 1}, 4).experts.bytes;
    };
    EXPECT_DOUBLE_EQ(bytes(ops::WeightFormat::int4), bytes(ops::WeightFormat::bf16) * 0.5625 / 2);
}

TEST(StepWork, IsSharedByTheRanks) {
    const model::Architecture architecture = layers_of("qwen3-30b-a3b", 2);
    const StepWork alone = even_work(architecture, {1, 1, 1}, 4096);
    for (const mpi::GridShape& grid : mpi::grids_of({}, 8)) {
        const StepWork work = even_work(architecture, grid, 4096);
        EXPECT_DOUBLE_EQ(work.experts.operations, alone.experts.operations / 8) << describe(grid);
        EXPECT_DOUBLE_EQ(work.projections.bytes, alone.projections.bytes) << describe(grid);
        EXPECT_LE(work.experts.bytes, alone.experts.bytes / static_cast<double>(grid.expert * grid.tensor) * 1.001)
            << describe(grid);
    }
}

}  // namespace
}  // namespace moesaic::train
