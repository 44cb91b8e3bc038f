// Self-tests of the instruction set levels.
#include "kernels/isa.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <thread>

namespace moesaic::kernels {
namespace {

void own_handler(int) {}

// First in this file, because each level is tested once per process.
TEST(Isa, SelfTestFromSeveralThreadsKeepsSignalHandlers) {
    std::signal(SIGILL, own_handler);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([] { EXPECT_EQ(self_test().size(), levels().size()); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    struct sigaction current = {};
    sigaction(SIGILL, nullptr, &current);
    EXPECT_EQ(current.sa_handler, own_handler);
    std::signal(SIGILL, SIG_DFL);
}

TEST(Isa, StatusAgreesWithRuns) {
    const std::vector<IsaStatus> statuses = self_test();
    ASSERT_EQ(statuses.size(), levels().size());
    for (std::size_t i = 0; i < statuses.size(); ++i) {
        const IsaStatus& status = statuses[i];
        EXPECT_EQ(static_cast<std::size_t>(status.isa), i);
        EXPECT_EQ(level(status.isa).name, name(status.isa));
        EXPECT_EQ(status.usable, runs(status.isa));
        EXPECT_EQ(status.usable, status.explanation == "ok");
        EXPECT_EQ(is_built_in(status.isa), status.explanation != "not built into this program");
        // A level of which the CPU offers the instructions, but whose kernels are wrong or fault, must not pass as
        // skipped tests.
        if ((level(status.isa).needs & ~cpu_features()) == 0 && is_built_in(status.isa)) {
            EXPECT_TRUE(status.usable || status.explanation == "not enabled by the operating system")
                << name(status.isa) << ": " << status.explanation;
        }
        RecordProperty(std::string(name(status.isa)), status.explanation);
    }
    EXPECT_TRUE(runs(Isa::portable));
    EXPECT_EQ(level(Isa::portable).needs, feature::none);
}

TEST(Isa, ALevelRunsWhereOneThatNeedsMoreRuns) {
    for (const Level& more : levels()) {
        for (const Level& less : levels()) {
            if ((less.needs & ~more.needs) == 0 && runs(more.isa)) {
                EXPECT_TRUE(runs(less.isa)) << more.name << " runs, " << less.name << " doesn't";
            }
        }
    }
}

TEST(Isa, ChoicesAreAutoAndThoseOfTheLevels) {
    const std::vector<std::string> all = choices();
    EXPECT_EQ(all.front(), "auto");
    EXPECT_EQ(all.back(), "portable");
    for (const Level& level : levels()) {
        EXPECT_EQ(std::count(all.begin(), all.end(), level.choice), 1) << level.choice;
    }
    for (const char* published : {"amx", "avx512", "avx2"}) {
        EXPECT_EQ(std::count(all.begin(), all.end(), published), 1) << published;
    }
}

}  // namespace
}  // namespace moesaic::kernels
