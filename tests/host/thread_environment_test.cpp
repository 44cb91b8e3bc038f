#include "host/thread_environment.hpp"

#include <gtest/gtest.h>

#include <string>

namespace moesaic::host {
namespace {

/// A rank with so many cores, of two on its host.
ThreadChoice automatic(const ThreadEnvironment& environment, int cores = 8) {
    return choose_threads(environment, {.wanted = 0, .cores = cores, .node_ranks = 2});
}

void expect_remark(const ThreadChoice& choice, Severity severity, const std::string& text) {
    ASSERT_EQ(choice.remarks.size(), 1U);
    EXPECT_EQ(choice.remarks[0].severity, severity);
    EXPECT_NE(choice.remarks[0].problem.find(text), std::string::npos) << choice.remarks[0].problem;
}

TEST(ThreadEnvironment, WithoutVariablesEveryCoreHasAThread) {
    EXPECT_EQ(automatic({}).threads, 8);
    EXPECT_TRUE(automatic({}).remarks.empty());
}

TEST(ThreadEnvironment, NumberOfOpenMpIsTheDefaultUpToTheCores) {
    EXPECT_TRUE(automatic({.openmp_threads = 8}).remarks.empty());
    const ThreadChoice fewer = automatic({.openmp_threads = 3});
    EXPECT_EQ(fewer.threads, 3);
    expect_remark(fewer, Severity::warning, "OMP_NUM_THREADS = 3 leaves 5 of 8 cores idle");
    const ThreadChoice more = automatic({.openmp_threads = 16});
    EXPECT_EQ(more.threads, 8);
    expect_remark(more, Severity::note, "OMP_NUM_THREADS = 16 is more than the cores; 8 threads will run");
}

TEST(ThreadEnvironment, SlurmsGrantIsKept) {
    const ThreadChoice per_task = automatic({.slurm_cpus_per_task = 2, .slurm_cpus_on_node = 16});
    EXPECT_EQ(per_task.threads, 2);
    expect_remark(per_task, Severity::note, "2 of 8 cores that can be seen are used (SLURM_CPUS_PER_TASK = 2)");
    EXPECT_EQ(automatic({.slurm_cpus_on_node = 6}).threads, 3) << "two ranks share them";
    EXPECT_EQ(automatic({.slurm_cpus_on_node = 1}).threads, 1);
    EXPECT_TRUE(automatic({.slurm_cpus_on_node = 32}).remarks.empty()) << "hardware threads are counted, too";
    const ThreadChoice both = automatic({.openmp_threads = 4, .slurm_cpus_per_task = 4});
    EXPECT_EQ(both.threads, 4);
    expect_remark(both, Severity::note, "4 of 8 cores");
}

TEST(ThreadEnvironment, TheUsersNumberWins) {
    const auto wanted = [](const ThreadEnvironment& environment) {
        return choose_threads(environment, {.wanted = 6, .cores = 8, .node_ranks = 1});
    };
    EXPECT_EQ(wanted({.openmp_threads = 2}).threads, 6);
    expect_remark(wanted({.openmp_threads = 2}), Severity::note, "parallel.threads = 6 overrules OMP_NUM_THREADS = 2");
    EXPECT_EQ(wanted({.slurm_cpus_per_task = 4}).threads, 6);
    expect_remark(wanted({.slurm_cpus_per_task = 4}), Severity::warning, "6 threads on 4 CPUs that Slurm granted");
    EXPECT_TRUE(wanted({.openmp_threads = 6, .slurm_cpus_on_node = 8}).remarks.empty());
}

TEST(ThreadEnvironment, LimitOfOpenMpAlwaysHolds) {
    const ThreadChoice choice = automatic({.openmp_limit = 1});
    EXPECT_EQ(choice.threads, 1);
    expect_remark(choice, Severity::warning, "OMP_THREAD_LIMIT = 1");
}

TEST(ThreadEnvironment, BindingsAreSaidNotToBeFollowed) {
    const ThreadChoice choice = automatic({.bindings = {"OMP_PROC_BIND=close", "OMP_PLACES=cores"}});
    EXPECT_EQ(choice.threads, 8);
    expect_remark(choice, Severity::note, "OMP_PROC_BIND=close, OMP_PLACES=cores not followed");
}

}  // namespace
}  // namespace moesaic::host
