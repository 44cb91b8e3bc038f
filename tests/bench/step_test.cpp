// Training steps as they are measured: the check before, and where the time goes.
#include "bench/report.hpp"
#include "bench/step_benchmark.hpp"

#include "bench/step_check.hpp"
#include "bench/step_run.hpp"
#include "bench/step_times.hpp"
#include "core/error.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace moesaic::bench {
namespace {

using core::trace::Event;

TEST(StepCheck, AStepOfAllRanksAgreesWithFp32OnOne) {
    const auto world = mpi::Communicator::world();
    const kernels::KernelSet best;
    const index_t ranks = world.size();
    for (const mpi::GridShape& shape : {mpi::GridShape{ranks, 1, 1}, {1, ranks, 1}, {1, 1, ranks}}) {
        const mpi::ProcessGrid grid(world, shape);
        const StepErrors errors =
            measure_step_errors(test::small_architecture(), {.lora = {.rank = 3, .alpha = 3}}, best, grid);
        if (world.is_root()) {
            EXPECT_GT(errors.log_probability, 0);
            EXPECT_LT(errors.log_probability, step_error_bound / 2);
            EXPECT_GT(errors.grad_lora, 0);
            EXPECT_LT(errors.grad_lora, step_error_bound / 2);
            EXPECT_NO_THROW(require_passed(checks_of(errors), "step"));
        }
    }
}

TEST(StepCheck, WrongStepsAreRefused) {
    const StepOutput right = {{-3, -4, -5, -4.5F}, {1, -2, 3}};
    EXPECT_EQ(compare(right, right).log_probability, 0);
    const auto refused = [&](const StepOutput& found) {
        try {
            require_passed(checks_of(compare(found, right)), "step");
        } catch (const core::Error& error) {
            return error.code() == core::ExitCode::verification_failed;
        }
        return false;
    };
    EXPECT_FALSE(refused(right));
    EXPECT_FALSE(refused({{-3.001F, -4, -5, -4.5F}, {1, -2.001F, 3}}));
    EXPECT_TRUE(refused({{-3.5F, -4, -5, -4.5F}, right.grad_lora}));
    EXPECT_TRUE(refused({right.log_probabilities, {1, -2, 0}}));
    EXPECT_TRUE(refused({right.log_probabilities, {2, -4, 6}}));
    EXPECT_TRUE(refused({right.log_probabilities, {std::numeric_limits<float>::quiet_NaN(), -2, 3}}));
}

TEST(StepCheck, TheSmallModelHasEveryKindOfLayer) {
    model::Architecture architecture = test::small_architecture();
    architecture.layers = 6;
    architecture.is_moe = {false, true, true, true, true, true};
    architecture.vocabulary = 100000;
    EXPECT_EQ(model_of_check(architecture, 4).experts, 4);
    EXPECT_EQ(model_of_check(architecture, 4).experts_per_token, 4);
    const model::Architecture small = model_of_check(architecture, 1);
    EXPECT_EQ(small.layers, 3);
    EXPECT_EQ(small.moe_layers(), 2);
    EXPECT_EQ(small.experts, architecture.experts_per_token);
    EXPECT_EQ(small.hidden, architecture.hidden);
    EXPECT_LT(small.vocabulary, 1000);
}

/// Times in milliseconds.
Event event(const char* name, const char* category, std::int64_t begin, std::int64_t end, int thread = 0) {
    return {name, category, begin * 1000000, end * 1000000, -1, thread};
}

TEST(StepTimes, CollectivesInsideOthersCountOnce) {
    const std::vector<Event> events = {event("mpi.barrier", "mpi", 0, 9),
                                       event("experts.forward", "compute", 11, 13),
                                       event("mpi.sum", "mpi", 14, 15),
                                       event("coordinator.decide", "mpi", 13, 17),
                                       event("experts.forward", "compute", 17, 18),
                                       event("mpi.max", "mpi", 18, 19, 1),
                                       event("mpi.max", "mpi", 18, 20),
                                       event("step", "step", 10, 20),
                                       event("mpi.max", "mpi", 21, 30)};
    const StepTrace trace = trace_of_step(events);
    EXPECT_DOUBLE_EQ(trace.total, 0.010);
    EXPECT_DOUBLE_EQ(trace.of_scope.at("experts.forward"), 0.003);
    ASSERT_EQ(trace.collectives.size(), 2U);
    EXPECT_DOUBLE_EQ(trace.collectives[0], 0.004);
    EXPECT_DOUBLE_EQ(trace.collectives[1], 0.002);
    EXPECT_THROW((void)trace_of_step({}), core::Error);
}

TEST(StepTimes, WaitingIsWhatTheShortestDidNotNeed) {
    const auto world = mpi::Communicator::world();
    StepTrace mine;
    mine.total = 10;
    mine.collectives = {1.0 + world.rank(), 2};  // rank 0 comes last to the first collective
    const auto shares = share_out(world, mine);
    ASSERT_EQ(shares.size(), world.is_root() ? static_cast<std::size_t>(world.size()) : 0U);
    double computing = 0;
    for (std::size_t r = 0; r < shares.size(); ++r) {
        EXPECT_DOUBLE_EQ(shares[r].transfer, 3);
        EXPECT_DOUBLE_EQ(shares[r].waiting, static_cast<double>(r));
        EXPECT_DOUBLE_EQ(shares[r].computing(), 7 - static_cast<double>(r));
        computing += shares[r].computing();
    }
    if (world.is_root()) {
        EXPECT_NEAR(imbalance_percent(shares), 100 * (7 * world.size() / computing - 1), 1e-9);
    }
}

TEST(StepTimes, RanksThatDifferAreAnError) {
    const auto world = mpi::Communicator::world();
    StepTrace mine;
    mine.collectives.resize(static_cast<std::size_t>(world.rank()) + 1);
    if (world.size() > 1) {
        EXPECT_THROW((void)share_out(world, mine), core::Error);
    } else {
        EXPECT_NO_THROW((void)share_out(world, mine));
    }
}

TEST(StepRun, TokensAreRandomAndAllTrainedOn) {
    const train::Dataset data = random_tokens(3, 50, 10, 1);
    EXPECT_EQ(data.sequences(), 3);
    EXPECT_EQ(data.length(2), 50);
    EXPECT_EQ(data.target_tokens(0), 49);
    EXPECT_EQ(*std::min_element(data.tokens.begin(), data.tokens.end()), 0);
    EXPECT_EQ(*std::max_element(data.tokens.begin(), data.tokens.end()), 9);
}

}  // namespace
}  // namespace moesaic::bench
