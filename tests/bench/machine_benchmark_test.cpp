// What a benchmark finds out about this machine.
#include "bench/benchmarks.hpp"
#include "bench/working_sets.hpp"
#include "host/caches.hpp"

#include <gtest/gtest.h>

namespace moesaic::bench {
namespace {

TEST(MachineBenchmark, ReadsOfCachesAndSumsInMemoryAreFigures) {
    const auto world = mpi::Communicator::world();
    Console console(world, {.name = "machine"});
    const auto settings = find_benchmark("machine")->make_settings();
    const train::Ranks ranks(world, {.threads = 1}, {});
    const train::Runtime runtime(ranks, settings->grids(ranks).front().shape);
    const auto benchmark = settings->prepare(runtime, console);
    benchmark->repeat(false);
    benchmark->repeat(true);
    benchmark->report(console, {});
    require_passed(console.result().checks, "machine");
    for (const measure::Figure& figure : console.result().figures) {
        EXPECT_EQ(figure.summary.n, 1U) << figure.name;
        EXPECT_GT(figure.value, 0.01) << figure.name;
        EXPECT_LT(figure.value, 1e5) << figure.name;
    }
    EXPECT_NE(console.result().find("stream_add"), nullptr);
    EXPECT_EQ(console.result().find("l2_read") != nullptr,
              world.min(working_sets(host::read_caches(0), 1, 1).second_level.value_or(0)) > 0);
}

}  // namespace
}  // namespace moesaic::bench
