// What needs ranks: limits of the machine, the loop that measures, what a case finds.
#include "bench/console.hpp"

#include "bench/benchmark.hpp"
#include "bench/disturbances.hpp"
#include "bench/environment.hpp"
#include "bench/working_sets.hpp"
#include "core/error.hpp"
#include "host/caches.hpp"
#include "kernels/peak.hpp"
#include "mpi/place.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <chrono>
#include <limits>
#include <thread>

namespace moesaic::bench {
namespace {

TEST(Console, FiguresHaveTheirSamples) {
    Console console(mpi::Communicator::world(), {.name = "a case"});
    console.add("time", "ms", measure::Better::lower, {3, 1, 2}, 50);
    console.add_limit("peak", "GFLOP/s", {{5, 7, 6}, {5, 8, 6}});
    console.add("bytes", "B", 2);
    const measure::CaseResult& result = console.result();
    ASSERT_EQ(result.figures.size(), 3U);
    EXPECT_EQ(result.find("time")->value, 2);
    EXPECT_EQ(result.find("time")->samples, (std::vector<double>{3, 1, 2}));
    EXPECT_EQ(result.find("peak")->value, 7);
    EXPECT_EQ(result.find("peak")->summary.median, 6);
    EXPECT_EQ(result.find("bytes")->summary.n, 0);
    EXPECT_EQ(result.find("byte"), nullptr);
}

/// So that a slow host can be found.
TEST(Console, SamplesOfAllRanksAreKept) {
    const auto world = mpi::Communicator::world();
    Console console(world, {.name = "a case"});
    const double mine = 1.0 + world.rank();
    console.add("time", "ms", measure::Better::lower, Samples{{9, 8}, {mine, 2 * mine}});
    console.add_limit("peak", "GFLOP/s", {{5}, {mine}});
    const auto& times = console.result().find("time")->rank_samples;
    const auto& peaks = console.result().find("peak")->rank_samples;
    EXPECT_EQ(console.result().find("time")->samples, (std::vector<double>{9, 8}));
    ASSERT_EQ(times.size(), world.is_root() && world.size() > 1 ? static_cast<std::size_t>(world.size()) : 0U);
    for (std::size_t rank = 0; rank < times.size(); ++rank) {
        const double of_rank = 1.0 + static_cast<double>(rank);
        EXPECT_EQ(times[rank], (std::vector<double>{of_rank, 2 * of_rank}));
        EXPECT_EQ(peaks[rank], (std::vector<double>{of_rank}));
    }
}

TEST(Console, ErrorsOfAnyRankCount) {
    const auto world = mpi::Communicator::world();
    Console console(world, {.name = "a case"});
    console.add_check("fine", world.rank() * 0.1, 1);
    EXPECT_DOUBLE_EQ(console.result().checks[0].error, (world.size() - 1) * 0.1);
    EXPECT_NO_THROW(require_passed(console.result().checks, "a case"));
    const bool last = world.rank() == world.size() - 1;
    console.add_check("wrong", last ? std::numeric_limits<double>::quiet_NaN() : 0, 1);
    try {
        require_passed(console.result().checks, "a case");
        ADD_FAILURE() << "a wrong result passes";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::verification_failed);
        EXPECT_NE(std::string(error.what()).find("wrong: inf"), std::string::npos) << error.what();
    }
}

TEST(Timing, TheSlowestRankCounts) {
    const auto world = mpi::Communicator::world();
    const bool is_slow = world.rank() == world.size() - 1;
    const Sample seconds = seconds_of(world, [&] {
        if (is_slow) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    });
    EXPECT_GE(seconds.slowest, 0.05);
    EXPECT_TRUE(is_slow ? seconds.mine >= 0.05 : seconds.mine <= seconds.slowest);
    int calls = 0;
    const index_t repeats = repeats_for(world, 0.02, [&] {
        ++calls;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    EXPECT_GE(calls, 2);
    EXPECT_GE(repeats, 1);
    EXPECT_LE(repeats, 20);
}

/// Gives the times that it is told, one after the other.
class GivenTimes final : public Benchmark {
public:
    explicit GivenTimes(std::vector<double> times) : times_(std::move(times)) {}
    void repeat(bool record) override {
        if (record) {
            recorded_.push_back(times_[recorded_.size() % times_.size()]);
        } else {
            ++warm_ups;
        }
    }
    [[nodiscard]] std::vector<std::span<const double>> samples() const override { return {recorded_}; }
    void report(Console&, const measure::MachineLimits&) const override {}
    int warm_ups = 0;

private:
    std::vector<double> times_;
    std::vector<double> recorded_;
};

index_t repetitions(std::vector<double> times, const Repetition& repetition) {
    Console console(mpi::Communicator::world(), {.name = "a case"});
    GivenTimes benchmark(std::move(times));
    for (index_t round = 0; round < repetition.rounds; ++round) {
        measure_round(console, benchmark, nullptr, repetition);
    }
    EXPECT_EQ(benchmark.warm_ups, repetition.rounds);
    EXPECT_EQ(console.result().rounds.size(), static_cast<std::size_t>(repetition.rounds));
    return static_cast<index_t>(benchmark.samples().front().size());
}

TEST(Repetition, EndsWhenTheIntervalIsNarrowOrTimeIsUp) {
    EXPECT_EQ(repetitions({1, 1.001}, {.rounds = 1, .least = 7, .spread_percent = 2, .seconds = 60}), 7);
    EXPECT_EQ(repetitions({1, 2}, {.rounds = 1, .least = 7, .spread_percent = 2, .seconds = 0}), 7);
    EXPECT_GT(repetitions({1, 2}, {.rounds = 1, .least = 7, .spread_percent = 2, .seconds = 0.02}), 7);
    // Wide at first: 1.1 is the upper bound until enough samples are at 1.
    EXPECT_GT(repetitions({1.1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {.least = 6, .spread_percent = 2, .seconds = 60}), 6);
    // Three in each round, but six are the least that can tell how wide the interval is.
    EXPECT_EQ(repetitions({1, 1, 1}, {.rounds = 3, .least = 7, .spread_percent = 2, .seconds = 60}), 12);
    EXPECT_EQ(repetitions({1, 1, 1}, {.rounds = 3, .least = 7, .spread_percent = 2, .seconds = 0}), 9);
}

using train::bf16_level;
using train::bytes_beyond_caches;
using train::MachineProbe;

TEST(Machine, LimitsOfEveryLevelThatRuns) {
    const auto world = mpi::Communicator::world();
    for (const kernels::PeakLoop& loop : kernels::peak_loops()) {
        if (kernels::runs(loop.isa)) {
            MachineProbe probe(world, loop, index_t{1} << 28U);
            for (int i = 0; i < 5; ++i) {  // all parts of its buffer
                const MachineProbe::Limits limits = probe.measure();
                EXPECT_GT(limits.gflops.slowest, 0) << kernels::name(loop.isa);
                EXPECT_LT(limits.gflops.slowest, 1e6) << kernels::name(loop.isa);
                EXPECT_GT(limits.gigabytes_per_second.slowest, 0.01);
                EXPECT_LT(limits.gigabytes_per_second.slowest, 1e4);
                EXPECT_GE(limits.gflops.mine, limits.gflops.slowest);
                EXPECT_GE(limits.gigabytes_per_second.mine, limits.gigabytes_per_second.slowest);
            }
        }
    }
    EXPECT_GT(host::last_level_cache_bytes({0}), 0);
    constexpr index_t mebibyte = index_t{1} << 20U;
    EXPECT_EQ(bytes_beyond_caches(world, 105 * mebibyte, 65536 * mebibyte), 315 * mebibyte);
    EXPECT_EQ(bytes_beyond_caches(world, 105 * mebibyte, 400 * mebibyte), 100 * mebibyte);
    EXPECT_EQ(bytes_beyond_caches(world, mebibyte, 65536 * mebibyte), 256 * mebibyte);
    EXPECT_EQ(bf16_level(kernels::KernelSet("portable")), kernels::Isa::portable);
}

/// Loops that take a known time: what is told of them must be what they do.
TEST(Machine, RatesAreThoseOfTheLoops) {
    static constexpr auto nap = std::chrono::milliseconds(20);  // longer ones than this are what a loaded machine adds
    const kernels::PeakLoop sleeping = {kernels::Isa::portable, 100,
                                        [](std::int64_t) {
                                            std::this_thread::sleep_for(nap);
                                            return 0.0F;
                                        },
                                        [](const float*, std::int64_t) {
                                            std::this_thread::sleep_for(nap);
                                            return 0.0F;
                                        }};
    const auto world = mpi::Communicator::world();
    constexpr index_t memory = index_t{1} << 28U;
    MachineProbe probe(world, sleeping, memory);
    double gflops = 0;
    double gigabytes_per_second = 0;
    for (int i = 0; i < 10; ++i) {
        const MachineProbe::Limits limits = probe.measure();
        gflops = std::max(gflops, limits.gflops.slowest);
        gigabytes_per_second = std::max(gigabytes_per_second, limits.gigabytes_per_second.slowest);
    }
    const double seconds = std::chrono::duration<double>(nap).count();
    const auto calls = static_cast<double>(omp_get_max_threads());  // one of 20000 rounds on each
    EXPECT_NEAR(gflops, 1e-9 * 100 * 20000 * calls / seconds, 0.2 * gflops);
    const double part = static_cast<double>(memory) / 4;
    EXPECT_NEAR(gigabytes_per_second, 1e-9 * part / seconds, 0.2 * gigabytes_per_second);
}

TEST(Machine, WorkingSetsStayInTheirCaches) {
    const auto sets_of = [](index_t second_level, index_t third_level, int threads) {
        return working_sets({{1, "data", 48 << 10, 2, "0-1"},
                             {1, "instruction", 32 << 10, 2, "0-1"},
                             {2, "unified", second_level, 2, "0-1"},
                             {3, "unified", third_level, 112, "0-111"}},
                            /*units_per_core=*/2, threads);
    };
    constexpr index_t mebibyte = index_t{1} << 20U;
    EXPECT_EQ(sets_of(2 * mebibyte, 105 * mebibyte, 8).second_level, mebibyte);
    EXPECT_EQ(sets_of(2 * mebibyte, 105 * mebibyte, 8).third_level, 4 * mebibyte);
    // Of all 56 cores: 224 MiB would not fit.
    EXPECT_EQ(sets_of(2 * mebibyte, 105 * mebibyte, 56).second_level, mebibyte);
    EXPECT_EQ(sets_of(2 * mebibyte, 105 * mebibyte, 56).third_level, std::nullopt);
    EXPECT_EQ(sets_of(mebibyte / 4, 105 * mebibyte, 112).third_level, mebibyte / 2);
    EXPECT_EQ(working_sets({}, 1, 4).second_level, std::nullopt);
    // Four cores of one thread share the second level.
    EXPECT_EQ(working_sets({{2, "unified", 4 * mebibyte, 4, "0-3"}}, 1, 4).second_level, mebibyte / 2);
}

TEST(Environment, OfThisRankIsWhatTheSchemaSays) {
    const auto world = mpi::Communicator::world();
    const auto rank = describe_rank(mpi::place(world, {.threads = 1}), true, kernels::KernelSet());
    EXPECT_EQ(rank["rank"], world.rank());
    EXPECT_FALSE(rank["cpu"]["model"].get<std::string>().empty());
    EXPECT_EQ(rank["cpu"]["isa"][0], "portable");
    EXPECT_GE(rank["cpu"]["threads_per_core"].get<int>(), 1);
    EXPECT_GT(rank["memory"]["bytes"].get<std::uint64_t>(), 0U);
    EXPECT_EQ(rank["placement"]["threads"], 1);
    for (const char* key :
         {"version", "git_revision", "compiler", "build_type", "flags", "kernel_flags", "mpi", "hdf5", "onednn"}) {
        EXPECT_TRUE(describe_program()[key].is_string()) << key;
    }
}

TEST(Disturbances, WarningsArriveOnRankZero) {
    const auto world = mpi::Communicator::world();
    host::Placement placement = mpi::place(world, {.threads = 1});
    placement.cores_shared = true;
    const auto lines = noise_warnings(world, placement, false, read_counters());
    if (world.is_root()) {
        const std::string ranks = world.size() > 1 ? "ranks 0-" + std::to_string(world.size() - 1) + ": " : "";
        EXPECT_TRUE(std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
            return line.starts_with(ranks + "others use its cores too");
        }));
    } else {
        EXPECT_TRUE(lines.empty());
    }
}

}  // namespace
}  // namespace moesaic::bench
