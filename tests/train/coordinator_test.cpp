// The one decision about a step that all ranks obey.
#include "train/coordinator.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

namespace moesaic::train {
namespace {

using mpi::Communicator;

/// A summary of a step that is fine.
StepSummary summary_of_rank() {
    const int rank = Communicator::world().rank();
    StepSummary summary;
    summary.loss_sum = 3.0 * (rank + 1);
    summary.squared_norm = 4.0;
    summary.tokens = 10 + rank;
    summary.target_tokens = rank + 1;
    summary.busy_seconds = 1;
    return summary;
}

bool is_last_rank() {
    return Communicator::world().rank() == Communicator::world().size() - 1;
}

/// Decides one step and expects that all ranks know the same.
Decision decide(const StepSummary& summary, const CoordinatorSettings& settings = {}, std::int64_t step = 1) {
    GradientCoordinator coordinator(Communicator::world(), settings);
    const Decision mine = coordinator.decide(summary, step);
    Decision of_root = mine;
    Communicator::world().broadcast(std::span<Decision>(&of_root, 1));
    EXPECT_EQ(mine.apply, of_root.apply);
    EXPECT_EQ(mine.checkpoint, of_root.checkpoint);
    EXPECT_EQ(mine.stop, of_root.stop);
    EXPECT_EQ(mine.clip_scale, of_root.clip_scale);
    EXPECT_TRUE(mine.loss == of_root.loss || (std::isnan(mine.loss) && std::isnan(of_root.loss)));
    EXPECT_EQ(mine.tokens, of_root.tokens);
    EXPECT_EQ(mine.slowest_rank, of_root.slowest_rank);
    return mine;
}

TEST(Coordinator, SumsWhatRanksReportAndApplies) {
    const int ranks = Communicator::world().size();
    const Decision decision = decide(summary_of_rank());
    EXPECT_TRUE(decision.apply);
    EXPECT_FALSE(decision.stop);
    EXPECT_FALSE(decision.checkpoint);
    EXPECT_DOUBLE_EQ(decision.loss, 3.0);  // per target token of all ranks
    EXPECT_DOUBLE_EQ(decision.gradient_norm, 2.0 * std::sqrt(ranks));
    EXPECT_EQ(decision.tokens, 10 * ranks + ranks * (ranks - 1) / 2);
    EXPECT_EQ(decision.target_tokens, ranks * (ranks + 1) / 2);
}

TEST(Coordinator, ClipsTheNormOfAllRanks) {
    const double norm = 2.0 * std::sqrt(Communicator::world().size());
    EXPECT_DOUBLE_EQ(decide(summary_of_rank()).clip_scale, 1 / (norm + 1e-6));
    EXPECT_DOUBLE_EQ(decide(summary_of_rank(), {.max_gradient_norm = 0.5}).clip_scale, 0.5 / (norm + 1e-6));
    EXPECT_EQ(decide(summary_of_rank(), {.max_gradient_norm = 100}).clip_scale, 1);
    EXPECT_EQ(decide(summary_of_rank(), {.max_gradient_norm = 0}).clip_scale, 1);
}

TEST(Coordinator, SkipsAStepThatIsNotFiniteOnAnyRank) {
    StepSummary summary = summary_of_rank();
    summary.finite = !is_last_rank();
    EXPECT_FALSE(decide(summary).apply);
    summary = summary_of_rank();
    summary.squared_norm = is_last_rank() ? std::numeric_limits<double>::infinity() : 4.0;
    EXPECT_FALSE(decide(summary).apply);
    summary = summary_of_rank();
    summary.squared_norm = 0;  // small gradients are no reason
    EXPECT_TRUE(decide(summary).apply);
}

TEST(Coordinator, SkipsAStepWithoutTargetsOnAllRanks) {
    StepSummary summary = summary_of_rank();
    summary.loss_sum = 0;
    summary.target_tokens = 0;
    const Decision decision = decide(summary);
    EXPECT_FALSE(decision.apply);
    EXPECT_TRUE(std::isnan(decision.loss));  // 0 would look like a perfect model
    summary.target_tokens = is_last_rank() ? 1 : 0;
    EXPECT_TRUE(decide(summary).apply);
}

TEST(Coordinator, StopsAtACheckpointIfAnyRankWantsTo) {
    StepSummary summary = summary_of_rank();
    summary.stop_requested = is_last_rank();
    const Decision decision = decide(summary);
    EXPECT_TRUE(decision.stop);
    EXPECT_TRUE(decision.checkpoint);
    EXPECT_TRUE(decision.apply);  // this step still counts
}

TEST(Coordinator, SavesEverySoManySteps) {
    for (std::int64_t step = 1; step <= 7; ++step) {
        EXPECT_EQ(decide(summary_of_rank(), {.checkpoint_every = 3}, step).checkpoint, step % 3 == 0);
        EXPECT_FALSE(decide(summary_of_rank(), {}, step).checkpoint);
    }
}

/// Time for one more step and a checkpoint must be left: twice the longest step so far.
TEST(Coordinator, StopsBeforeTheTimeIsOver) {
    using std::chrono::milliseconds;
    const auto stops = [](double limit_seconds, milliseconds step_time) {
        GradientCoordinator coordinator(Communicator::world(), {.wall_time = {"", limit_seconds}});
        std::this_thread::sleep_for(step_time);
        const Decision decision = coordinator.decide(summary_of_rank(), 1);
        EXPECT_EQ(decision.checkpoint, decision.stop);
        return decision.stop;
    };
    EXPECT_FALSE(stops(0, milliseconds(10)));     // no limit
    EXPECT_FALSE(stops(3600, milliseconds(10)));  // far away
    EXPECT_TRUE(stops(0.3, milliseconds(120)));   // 0.12 s are over, and 0.24 s more are needed
}

TEST(Coordinator, NamesTheRankThatOthersWaitFor) {
    const int ranks = Communicator::world().size();
    StepSummary summary = summary_of_rank();
    summary.busy_seconds = is_last_rank() ? 8 : Communicator::world().rank() + 1;
    Decision decision = decide(summary);
    EXPECT_EQ(decision.slowest_rank, ranks - 1);
    // 8 s against the median of the others: nobody, {1}, and {1, 2, 3}.
    EXPECT_DOUBLE_EQ(decision.slowness, ranks == 1 ? 1.0 : ranks == 2 ? 8.0 : 4.0);
    summary.busy_seconds = Communicator::world().is_root() ? 8 : 1;
    decision = decide(summary);
    EXPECT_EQ(decision.slowest_rank, 0);
    EXPECT_DOUBLE_EQ(decision.slowness, ranks == 1 ? 1.0 : 8.0);
    summary.busy_seconds = 0;
    EXPECT_DOUBLE_EQ(decide(summary).slowness, 1.0);
}

}  // namespace
}  // namespace moesaic::train
