// Memory and files that end: whatever the program is doing, it says so in one line and ends with exit code 5.
#include "app/program.hpp"
#include "support/temporary_folder.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using test::error_lines;
using test::Result;
using test::shell;

class LimitsTest : public testing::Test {
protected:
    [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
    [[nodiscard]] std::string train(const std::string& output) const {
        const std::string reference = MOESAIC_TEST_DATA "/qwen3_moe";
        return "train --model.path " + reference + " --data.train " + reference +
               "/train.jsonl --train.steps 2 --train.batch_size 4 --parallel.threads 1 --output.dir " + path(output);
    }
    static void expect_out_of_resources(const Result& result, const std::string& trial) {
        EXPECT_EQ(result.exit_code, 5) << trial << "\n" << result.output;
        EXPECT_EQ(error_lines(result.output).size(), 1U) << trial << "\n" << result.output;
    }

    const moesaic::test::TemporaryFolder folder_;
};

/// From the first allocation to the last: none of those that fail, in whatever destructor, ends the process otherwise.
TEST_F(LimitsTest, EveryAllocationMayFail) {
    const std::string program = MOESAIC_SCARCE " ";
    const auto succeeds_with = [&](long allocations) {
        fs::remove_all(folder_ / "out");
        return shell(fmt::format("MOESAIC_TEST_ALLOCATIONS={} {}{}", allocations, program, train("out"))).exit_code ==
               0;
    };
    long enough = 1024;
    while (!succeeds_with(enough)) {
        enough *= 2;
        ASSERT_LT(enough, 1L << 30U);
    }
    constexpr long trials = 30;
    int failed = 0;
    for (long trial = 0; trial < trials; ++trial) {
        // Not at equal distances: loops would be met at the same place.
        const long allocations = 1 + (trial * enough / trials + trial * trial * 7919) % enough;
        for (const long limit : {allocations, -allocations}) {  // no more memory, and one request refused
            fs::remove_all(folder_ / "out");
            const Result result = shell(fmt::format("MOESAIC_TEST_ALLOCATIONS={} {}{}", limit, program, train("out")));
            if (result.exit_code != 0) {
                ++failed;
                expect_out_of_resources(result, fmt::format("{} allocations", limit));
            }
        }
    }
    EXPECT_GE(failed, trials / 2);
}

TEST_F(LimitsTest, FilesThatMayNotGrowEndTheRunWhichGoesOnLater) {
    const std::string program = MOESAIC_PROGRAM " ";
    for (const int kibibytes : {0, 1, 8, 64, 256}) {
        const std::string output = fmt::format("out{}", kibibytes);
        const Result limited = shell(fmt::format("bash -c 'ulimit -f {}; {}{}'", kibibytes, program, train(output)));
        expect_out_of_resources(limited, fmt::format("ulimit -f {}", kibibytes));
        EXPECT_NE(limited.output.find(path(output)), std::string::npos) << limited.output;
        const Result later = shell(program + train(output));
        EXPECT_EQ(later.exit_code, 0) << later.output;
    }
}

TEST_F(LimitsTest, AddressSpaceThatEndsIsNamed) {
    const std::string program = MOESAIC_PROGRAM " ";
    const std::string model =
        "train --model.synthetic mixtral-8x7b --model.layers 1 --compute.precision fp32 "
        "--data.train " MOESAIC_TEST_DATA "/qwen3_moe/train.jsonl --output.dir " +
        path("out");
    const Result result = shell("bash -c 'ulimit -v 4000000; " + program + model + "'");
    expect_out_of_resources(result, "ulimit -v");
    EXPECT_NE(result.output.find("ulimit -v (RLIMIT_AS) is 3.81 GiB"), std::string::npos) << result.output;
    EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace moesaic::app
