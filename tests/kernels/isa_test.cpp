// Self-tests of the instruction set levels.
#include "kernels/isa.hpp"

#include <gtest/gtest.h>

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
        threads.emplace_back([] { EXPECT_EQ(self_test().size(), 5U); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    struct sigaction current = {};
    sigaction(SIGILL, nullptr, &current);
    EXPECT_EQ(current.sa_handler, own_handler);
    std::signal(SIGILL, SIG_DFL);
}

TEST(Isa, ReportsAscendAndAgreeWithRuns) {
    const std::vector<IsaReport> reports = self_test();
    ASSERT_EQ(reports.size(), 5U);
    EXPECT_EQ(reports[0].isa, Isa::portable);
    EXPECT_TRUE(reports[0].usable);
    for (std::size_t i = 0; i < reports.size(); ++i) {
        EXPECT_EQ(static_cast<std::size_t>(reports[i].isa), i);
        EXPECT_EQ(reports[i].usable, runs(reports[i].isa));
        EXPECT_EQ(reports[i].usable, reports[i].explanation == "ok");
        if (i > 0) {
            EXPECT_LE(reports[i].usable, reports[i - 1].usable) << "a level includes the ones before it";
        }
        // A level of which the CPU offers the instructions, but whose kernels are wrong, must not pass as skipped
        // tests.
        EXPECT_NE(reports[i].explanation, "wrong result in the self-test") << name(reports[i].isa);
        RecordProperty(std::string(name(reports[i].isa)), reports[i].explanation);
    }
}

TEST(Isa, Names) {
    EXPECT_EQ(name(Isa::portable), "portable");
    EXPECT_EQ(name(Isa::avx2), "avx2");
    EXPECT_EQ(name(Isa::avx512), "avx512");
    EXPECT_EQ(name(Isa::avx512_bf16), "avx512_bf16");
    EXPECT_EQ(name(Isa::amx), "amx");
}

}  // namespace
}  // namespace moesaic::kernels
