// The list of benchmarks.
#include "bench/cases.hpp"
#include "core/error.hpp"

#include <gtest/gtest.h>

namespace moesaic::bench {
namespace {

TEST(Benchmarks, OptionsOfEachStandBesideThoseOfAllCases) {
    for (const BenchmarkKind& kind : benchmark_kinds()) {
        EXPECT_EQ(find_benchmark(kind.name), &kind);
        core::OptionSet options;
        BenchOptions().declare(options);
        CaseSpec spec(kind, std::string(kind.name));
        EXPECT_NO_THROW(spec.declare(options, "")) << kind.name;
        EXPECT_NO_THROW(spec.check(kind.least_ranks)) << kind.name;
    }
    EXPECT_EQ(find_benchmark("nothing"), nullptr);
}

TEST(Cases, NumbersOfRanksAndThreadsAreLists) {
    CaseSpec spec(*find_benchmark("layer"), "layer.small");
    EXPECT_EQ(spec.rank_counts(6), std::vector<index_t>{6});
    spec.ranks = "powers,3";
    EXPECT_EQ(spec.rank_counts(6), (std::vector<index_t>{1, 2, 3, 4, 6}));
    spec.threads = "1,auto";
    EXPECT_EQ(spec.thread_counts(5), (std::vector<index_t>{1, 5}));
    spec.ranks = "7";
    EXPECT_THROW(spec.check(6), core::Error);
    for (const std::string list : {"", "1,", ",2", "1,,2"}) {
        spec.ranks = list;
        try {
            static_cast<void>(spec.rank_counts(6));
            FAIL() << list << " is accepted";
        } catch (const core::Error& error) {
            EXPECT_NE(std::string(error.what()).find("layer.small.ranks = \"" + list + "\" lacks an entry"),
                      std::string::npos)
                << error.what();
            EXPECT_EQ(error.code(), core::ExitCode::usage);
        }
    }
}

}  // namespace
}  // namespace moesaic::bench
