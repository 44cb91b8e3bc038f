// The time of steps that nobody has run.
#include "bench/step_time.hpp"

#include "bench/step_work.hpp"
#include "core/error.hpp"
#include "model/weights/synthetic.hpp"

#include <gtest/gtest.h>

namespace moesaic::bench {
namespace {

measure::CaseResult case_of(const std::string& benchmark, index_t threads, double gflops) {
    measure::CaseResult result;
    result.name = result.benchmark = benchmark;
    result.threads = threads;
    result.machine = measure::MachineSamples{.level = "avx512", .peak = {gflops}, .dram_read = {gflops / 10}};
    return result;
}

measure::CaseResult step_case(index_t threads, double gflops, double floor_percent) {
    measure::CaseResult result = case_of("step", threads, gflops);
    measure::Figure seconds;
    seconds.name = "step_seconds";
    seconds.floor_percent = floor_percent;
    result.figures.push_back(seconds);
    return result;
}

TEST(StepSpeed, IsThatOfAMeasuredStepIfThereIsOne) {
    measure::Results results;
    results.cases = {case_of("collectives", 1, 50), case_of("machine", 4, 100)};
    results.cases.front().machine.reset();
    const StepSpeed usual = speed_of(results, "a.json");
    EXPECT_EQ(usual.source, "a.json, machine");
    EXPECT_DOUBLE_EQ(usual.limits.peak_flops, 1e11);
    EXPECT_DOUBLE_EQ(usual.limits.bytes_per_second, 1e10);
    EXPECT_GT(usual.efficiency, 0);
    EXPECT_LT(usual.efficiency, 1);
    results.cases.push_back(step_case(8, 160, 62.5));
    const StepSpeed measured = speed_of(results, "a.json");
    EXPECT_EQ(measured.source, "a.json, step");
    EXPECT_EQ(measured.efficiency, 0.625);
    EXPECT_DOUBLE_EQ(measured.limits_of(4).peak_flops, 0.8e11);
    EXPECT_DOUBLE_EQ(measured.limits_of(16).bytes_per_second, 3.2e10);
    results.cases.resize(1);
    try {
        static_cast<void>(speed_of(results, "a.json"));
        ADD_FAILURE();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        EXPECT_EQ(std::string(error.what()).find("benchmark = a.json: "), 0U) << error.what();
    }
}

TEST(StepTime, IsTheFloorOverTheEfficiencyAndScores) {
    model::Architecture architecture = model::synthetic_architecture("qwen3-30b-a3b");
    const StepSpeed speed = {.limits = {1e12, 1e10}, .threads = 4, .efficiency = 0.5, .source = ""};
    const StepsToCome steps = {
        .grid = {1, 1, 1}, .threads = 8, .passes = 3, .tokens_of_pass = 4000, .sequence_length = 1};
    const double floor = StepWork(architecture, steps.grid, 4000).floor_seconds({2e12, 2e10});
    EXPECT_NEAR(step_seconds(architecture, steps, speed), 3 * floor / 0.5, 1e-3 * floor);
    StepsToCome longer = steps;
    longer.sequence_length = 1000;
    // QK and PV of 32 heads of 128: 2 operations, half of all pairs, and backward five products for two.
    const double scores = 4 * 48 * 32.0 * (128 + 128) * 1e6 * 3.5 / 2e12;
    EXPECT_NEAR(step_seconds(architecture, longer, speed), 3 * (floor + scores) / 0.5, 1e-3 * floor);
    architecture.attention.windows.assign(48, 100);
    EXPECT_LT(step_seconds(architecture, longer, speed), 3 * (floor + 0.2 * scores) / 0.5);
    StepsToCome recomputed = steps;
    recomputed.activations = ops::Activations::recompute;
    EXPECT_GT(step_seconds(architecture, recomputed, speed), 1.1 * step_seconds(architecture, steps, speed));
    // With layers also the other projections and, of seven products of attention, the two of the forward.
    StepsToCome by_layer = longer;
    by_layer.activations = ops::Activations::layer;
    recomputed.sequence_length = longer.sequence_length;
    architecture.attention.windows.assign(48, 0);
    const double again =
        StepWork(architecture, steps.grid, 4000).projections.floor_seconds({2e12, 2e10}) + scores / 3.5;
    EXPECT_NEAR(step_seconds(architecture, by_layer, speed),
                step_seconds(architecture, recomputed, speed) + 3 * again / 0.5, 1e-3 * floor);
    StepsToCome on_two_ranks = steps;
    on_two_ranks.grid = {1, 2, 1};
    EXPECT_NEAR(step_seconds(architecture, on_two_ranks, speed), step_seconds(architecture, steps, speed) / 2,
                0.1 * floor);
}

/// Where few tokens come, weights are read and hardly used.
TEST(StepTime, FewerBitsAreReadSooner) {
    model::Architecture architecture = model::synthetic_architecture("mixtral-8x7b");
    const auto bytes = [&](ops::WeightFormat format) {
        architecture.stored.experts = format;
        return StepWork(architecture, {1, 1, 1}, 4).experts.bytes;
    };
    EXPECT_DOUBLE_EQ(bytes(ops::WeightFormat::int4), bytes(ops::WeightFormat::bf16) * 0.5625 / 2);
}

}  // namespace
}  // namespace moesaic::bench
