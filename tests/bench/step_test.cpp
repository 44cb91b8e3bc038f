// Training steps as they are measured: the check before, and where the time goes.
#include "bench/console.hpp"

#include "bench/step_check.hpp"
#include "bench/step_plans.hpp"
#include "bench/step_run.hpp"
#include "core/error.hpp"
#include "measure/step_times.hpp"
#include "measure/trace_drain.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <thread>

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
Event event(const char* name, const char* category, std::int64_t begin, std::int64_t end, int thread = 0,
            std::uint64_t call = 0) {
    return {name, category, begin * 1000000, end * 1000000, -1, thread, {call, 0, 0}};
}

double seconds(const measure::Call& call) {
    return measure::seconds_per_us * (call.end - call.begin);
}

/// A collective of so many seconds, which began at a moment that other ranks can't know.
measure::Call call(std::uint64_t number, double seconds, int rank) {
    const double begin = 1e6 * 100 * rank;
    return {begin, begin + seconds / measure::seconds_per_us, number, 0};
}

TEST(StepTimes, CollectivesInsideOthersCountOnce) {
    const std::vector<Event> events = {
        event("mpi.barrier", "mpi", 0, 9, 0, 1),     event("experts.forward", "compute", 11, 13),
        event("mpi.min", "mpi", 14, 15, 0, 2),       event("mpi.sum", "mpi", 13, 16, 0, 3),
        event("coordinator.decide", "mpi", 12, 17),  // no call itself
        event("experts.forward", "compute", 17, 18), event("mpi.max", "mpi", 18, 19, 1, 4),
        event("mpi.max", "mpi", 18, 20, 0, 5),       event("step", "step", 10, 20),
        event("mpi.max", "mpi", 21, 30, 0, 6)};
    const measure::StepTrace trace = measure::trace_of_step(events);
    EXPECT_DOUBLE_EQ(trace.rank.total, 0.010);
    EXPECT_DOUBLE_EQ(trace.rank.seconds_of(core::scopes::experts_forward), 0.003);
    ASSERT_EQ(trace.calls.size(), 2U);
    EXPECT_EQ(trace.calls[0].call, 3U);
    EXPECT_DOUBLE_EQ(seconds(trace.calls[0]), 0.003);
    EXPECT_DOUBLE_EQ(seconds(trace.calls[1]), 0.002);
    EXPECT_THROW((void)measure::trace_of_step({}), core::Error);
}

TEST(StepTimes, AScopeThatIsMissingIsAnErrorThatNamesIt) {
    const measure::StepTrace trace =
        measure::trace_of_step(std::vector<Event>{event("loss", "compute", 10, 12), event("step", "step", 10, 20)});
    EXPECT_DOUBLE_EQ(trace.rank.seconds_of(core::scopes::loss), 0.002);
    try {
        (void)trace.rank.seconds_of(core::scopes::attention_forward);
        ADD_FAILURE() << "a scope that is not there took no time";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::runtime_failure);
        EXPECT_NE(std::string(error.what()).find("attention.forward"), std::string::npos) << error.what();
    }
}

TEST(StepTimes, ExchangeIsHiddenWhereTheWorkerComputes) {
    const measure::StepTrace trace = measure::trace_of_step(std::vector<Event>{
        event("exchange.dispatch", "compute", 10, 14), event("mpi.all_gather_rows", "mpi", 11, 14),
        event("exchange.dispatch", "compute", 14, 18), event("experts.forward", "compute", 15, 20, 1),
        event("experts.up", "compute", 16, 17, 1), event("experts.forward", "thread", 15, 20, 2),
        event("exchange.combine", "compute", 19, 24), event("experts.forward", "compute", 25, 27, 1),
        event("experts.backward", "compute", 27, 28), event("exchange.combine", "compute", 30, 40),
        event("experts.forward", "compute", 30, 40, 1), event("step", "step", 10, 29)});
    EXPECT_DOUBLE_EQ(trace.rank.exchange, 0.013);
    EXPECT_DOUBLE_EQ(trace.rank.hidden, 0.004);
    EXPECT_DOUBLE_EQ(trace.rank.seconds_of(core::scopes::experts_forward), 0.007);
    EXPECT_DOUBLE_EQ(trace.rank.seconds_of(core::scopes::experts_backward), 0.001);
}

TEST(StepTimes, WaitingIsWhatTheShortestDidNotNeed) {
    const auto world = mpi::Communicator::world();
    measure::StepTrace mine;
    mine.rank.total = 10;
    mine.rank.exchange = 4;
    mine.rank.hidden = 1 + world.rank();
    mine.calls = {call(7, 1.0 + world.rank(), world.rank()),
                  call(8, 2, world.rank())};  // rank 0 comes last to the first one
    const auto shares = measure::share_out(world, mine);
    ASSERT_EQ(shares.size(), world.is_root() ? static_cast<std::size_t>(world.size()) : 0U);
    double computing = 0;
    for (std::size_t r = 0; r < shares.size(); ++r) {
        EXPECT_DOUBLE_EQ(shares[r].transfer, 3);
        EXPECT_DOUBLE_EQ(shares[r].exchange, 4);
        EXPECT_DOUBLE_EQ(shares[r].hidden, 1 + static_cast<double>(r));
        EXPECT_DOUBLE_EQ(shares[r].waiting, static_cast<double>(r));
        EXPECT_DOUBLE_EQ(shares[r].computing(), 7 - static_cast<double>(r));
        computing += shares[r].computing();
    }
    if (world.is_root()) {
        EXPECT_NEAR(measure::imbalance_percent(shares), 100 * (7 * world.size() / computing - 1), 1e-9);
    }
}

/// Of pairs of ranks: what the ranks of other pairs need says nothing.
TEST(StepTimes, CollectivesOfPartsOfTheWorldAreComparedWithinThem) {
    const auto world = mpi::Communicator::world();
    measure::StepTrace mine;
    mine.rank.total = 10;
    const int pair = world.rank() / 2;
    mine.calls = {call(static_cast<std::uint64_t>(100 + pair), 1.0 + pair + 0.5 * (world.rank() % 2), world.rank())};
    const auto shares = measure::share_out(world, mine);
    for (std::size_t r = 0; r < shares.size(); ++r) {
        EXPECT_DOUBLE_EQ(shares[r].transfer, 1 + static_cast<double>(r / 2)) << r;
        EXPECT_DOUBLE_EQ(shares[r].waiting, r % 2 == 1 ? 0.5 : 0) << r;
    }
}

TEST(StepTimes, AllEventsOfALongStepAreCollected) {
    measure::EventCollector collector;
    constexpr std::size_t bursts = 8;
    constexpr std::size_t of_burst = 20000;  // buffers of threads hold 2^15
    for (std::size_t burst = 0; burst < bursts; ++burst) {
        for (std::size_t i = 0; i < of_burst; ++i) {
            const core::trace::Scope scope(core::trace::ScopeName("a scope", core::trace::category::compute));
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    EXPECT_EQ(collector.stop().size(), bursts * of_burst);
    EXPECT_FALSE(core::trace::enabled());
}

TEST(StepRun, TokensAreRandomAndAllTrainedOn) {
    const train::Dataset data = random_tokens(3, 50, 10, 1);
    EXPECT_EQ(data.sequences(), 3);
    EXPECT_EQ(data.length(2), 50);
    EXPECT_EQ(data.target_tokens(0), 49);
    EXPECT_EQ(*std::min_element(data.tokens.begin(), data.tokens.end()), 0);
    EXPECT_EQ(*std::max_element(data.tokens.begin(), data.tokens.end()), 9);
}

/// A skew of random routers is a popularity for the model of costs, which has more for one group to do then.
TEST(StepPlans, KnowHowRoutingIsSkewed) {
    const train::Ranks ranks(mpi::Communicator::world(), {.threads = 1}, {}, /*announces=*/false);
    StepWorkload workload = {.model = {.path = {}, .synthetic = "moesaic-reference", .layers = 1},
                             .batches = {.batch_size = 8},
                             .length = 64};
    const auto experts = [&] {
        const StepPlans plans(ranks, {}, workload);
        const train::GridQuestion question = plans.question();
        train::StepsToCome steps = question.steps;
        steps.grid = {1, 4, 1};
        return train::CostModel(question.architecture, question.lora)
            .of(steps, train::usual_rates(kernels::Isa::avx512, 1))
            .experts;
    };
    const double even = experts();
    workload.model.router_skew = 3;
    EXPECT_GT(experts(), 1.2 * even);
}

}  // namespace
}  // namespace moesaic::bench
