// What needs ranks: limits of the machine, figures, JSON.
#include "bench/report.hpp"
#include "bench/machine.hpp"
#include "bench/timing.hpp"
#include "kernels/peak.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace moesaic::bench {
namespace {

TEST(Report, JsonHasEveryFigureWithItsSamples) {
    Report report(mpi::Communicator::world());
    report.add("time", "ms", summarize({3, 1, 2}));
    report.add_limit("peak", "GFLOP/s", summarize({5, 7, 6}));
    report.add("bytes", "B", 2);
    const auto document = report.to_json("layer", {"a cpu", "a host", "avx2", 2, 1});
    EXPECT_EQ(document["environment"]["isa"], "avx2");
    ASSERT_EQ(document["figures"].size(), 3U);
    const auto& time = document["figures"][0];
    EXPECT_EQ(time["value"], 2);
    EXPECT_EQ(time["n"], 3);
    EXPECT_EQ(time["interval"], (std::vector<double>{1, 3}));
    EXPECT_EQ(document["figures"][1]["value"], 7);
    EXPECT_EQ(document["figures"][1]["median"], 6);
    EXPECT_EQ(document["figures"][2]["n"], 0);
    EXPECT_FALSE(document["figures"][2].contains("median"));
}

TEST(Timing, TheSlowestRankCounts) {
    const auto world = mpi::Communicator::world();
    const double seconds = seconds_of_slowest(world, [&] {
        if (world.rank() == world.size() - 1) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    });
    EXPECT_GE(seconds, 0.05);
    int calls = 0;
    const index_t repeats = repeats_for(world, 0.02, [&] {
        ++calls;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    EXPECT_GE(calls, 2);
    EXPECT_GE(repeats, 1);
    EXPECT_LE(repeats, 20);
}

TEST(Machine, PeakOfEveryLevelThatRuns) {
    const auto world = mpi::Communicator::world();
    for (const kernels::PeakLoop& loop : kernels::peak_loops()) {
        if (kernels::runs(loop.isa)) {
            const Peak peak = measure_peak(world, loop.isa);
            EXPECT_GT(peak.one_thread.min, 0) << kernels::name(loop.isa);
            EXPECT_LT(peak.one_thread.max, 1e5) << kernels::name(loop.isa);
        }
    }
}

TEST(Machine, MemoryReadsWithinReason) {
    const Summary read = measure_dram_read(mpi::Communicator::world(), kernels::Isa::portable, index_t{1} << 28U);
    EXPECT_GT(read.min, 0.01);
    EXPECT_LT(read.max, 1e4);
    EXPECT_GT(last_level_cache_bytes(), 0);
    EXPECT_EQ(bf16_level(kernels::KernelSet("portable")), kernels::Isa::portable);
}

}  // namespace
}  // namespace moesaic::bench
