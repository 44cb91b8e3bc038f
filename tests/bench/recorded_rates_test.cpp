// The speed of a machine as earlier benchmarks found it.
#include "bench/recorded_rates.hpp"

#include "core/error.hpp"

#include <gtest/gtest.h>

namespace moesaic::bench {
namespace {

using core::index_t;

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

TEST(RecordedRates, AreThoseOfAMeasuredStepIfThereIsOne) {
    measure::Results results;
    results.cases = {case_of("collectives", 1, 50), case_of("machine", 4, 100)};
    results.cases.front().machine.reset();
    const train::MachineRates usual = recorded_rates(results, "a.json");
    EXPECT_EQ(usual.source, "a.json, machine");
    EXPECT_DOUBLE_EQ(usual.limits.peak_flops, 1e11);
    EXPECT_DOUBLE_EQ(usual.limits.bytes_per_second, 1e10);
    EXPECT_EQ(usual.threads, 4);
    EXPECT_DOUBLE_EQ(usual.efficiency.experts, train::usual_efficiency(kernels::Isa::avx512).experts);
    results.cases.push_back(step_case(8, 160, 62.5));
    const train::MachineRates measured = recorded_rates(results, "a.json");
    EXPECT_EQ(measured.source, "a.json, step");
    EXPECT_EQ(measured.efficiency.experts, 0.625);
    EXPECT_DOUBLE_EQ(measured.limits_of(4).peak_flops, 0.8e11);
    EXPECT_DOUBLE_EQ(measured.limits_of(16).bytes_per_second, 3.2e10);
    results.cases.resize(1);
    try {
        static_cast<void>(recorded_rates(results, "a.json"));
        ADD_FAILURE();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        EXPECT_EQ(std::string(error.what()).find("benchmark = a.json: "), 0U) << error.what();
    }
}

}  // namespace
}  // namespace moesaic::bench
