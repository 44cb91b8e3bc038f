// Comparison of results: tests of ranks against tables, planted slow-downs, drift of the machine.
#include "measure/compare.hpp"

#include "core/error.hpp"
#include "core/random.hpp"
#include "measure/significance.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace moesaic::measure {
namespace {

TEST(MannWhitney, AgreesWithTheTables) {
    // Critical values of U for a two-sided 5 % (Mann & Whitney): 5 and 5: 2; 6 and 6: 5; 8 and 6: 8.
    EXPECT_NEAR(mann_whitney({1, 2, 3, 4}, {5, 6, 7, 8}), 2.0 / 70, 1e-12);
    EXPECT_NEAR(mann_whitney({1, 2, 3}, {4, 5, 6}), 2.0 / 20, 1e-12);
    EXPECT_LE(mann_whitney({1, 2, 3, 4, 7}, {5, 6, 8, 9, 10}), 0.05);  // U = 2
    EXPECT_GT(mann_whitney({1, 2, 3, 5, 7}, {4, 6, 8, 9, 10}), 0.05);  // U = 3
    EXPECT_EQ(mann_whitney({1}, {2}), 1);
    EXPECT_EQ(mann_whitney({2, 2, 2}, {2, 2, 2}), 1);
    std::vector<double> a;
    std::vector<double> b;
    for (int i = 0; i < 20; ++i) {
        a.push_back(i);
        b.push_back(i + 6.5);
    }
    const double exact = mann_whitney(a, b);
    a.push_back(100);  // beyond the exact distribution
    a.push_back(-100);
    EXPECT_NEAR(mann_whitney(a, b), exact, 0.01);
}

TEST(MannWhitney, RejectsAsOftenAsItSays) {
    const core::CounterRandom random(5, 0);
    std::uint64_t draws = 0;
    int rejected = 0;
    constexpr int trials = 4000;
    for (int trial = 0; trial < trials; ++trial) {
        std::vector<double> a(6);
        std::vector<double> b(7);
        for (auto* side : {&a, &b}) {
            for (double& value : *side) {
                value = random.normal(draws++);
            }
        }
        rejected += mann_whitney(a, b) < 0.05 ? 1 : 0;
    }
    EXPECT_LT(rejected, trials * 6 / 100);
    EXPECT_GT(rejected, trials * 2 / 100);
}

TEST(SignedRank, AgreesWithTheTables) {
    // Critical sums of ranks for a two-sided 5 % (Wilcoxon): 6: 0, 8: 3, 10: 8.
    EXPECT_DOUBLE_EQ(signed_rank({1, 2, 3, 4, 5, 6}), 2.0 / 64);
    EXPECT_DOUBLE_EQ(signed_rank({-1, -2, -3, -4, -5, -6}), 2.0 / 64);
    EXPECT_LE(signed_rank({-1, -2, 3, 4, 5, 6, 7, 8}), 0.05);  // 3
    EXPECT_GT(signed_rank({-1, 2, -3, 4, 5, 6, 7, 8}), 0.05);  // 4
    EXPECT_DOUBLE_EQ(signed_rank({-1, -2, 3}), 1);             // 3 of 0 to 6
    EXPECT_EQ(signed_rank({0, 0}), 1);
    std::vector<double> many;
    for (int i = 1; i <= 20; ++i) {
        many.push_back(i % 4 == 0 ? -i : i);
    }
    const double exact = signed_rank(many);
    many.back() = -19;  // a tie, so that the normal approximation is used
    EXPECT_NEAR(signed_rank(many), exact, 0.01);
    EXPECT_DOUBLE_EQ(center({1, 2, 6}), 2.75);  // of 1, 1.5, 2, 3.5, 4, 6
}

TEST(Welch, AgreesWithTheTables) {
    // Student's t of 2.776 has a two-sided 5 % with 4 degrees of freedom; these sides have equal variances.
    const double step = 2.776 * std::sqrt(2.0 / 3);
    EXPECT_NEAR(welch({-1, 0, 1}, {step - 1, step, step + 1}), 0.05, 1e-4);
    EXPECT_NEAR(welch({-1, 0, 1}, {-1, 0, 1}), 1, 1e-12);
    EXPECT_EQ(welch({1, 1}, {1, 1}), 1);
    EXPECT_EQ(welch({1, 1}, {2, 2}), 0);
}

TEST(Compare, HolmAdjustsInOrder) {
    EXPECT_EQ(holm({0.01, 0.04, 0.03}), (std::vector<double>{0.03, 0.06, 0.06}));
    EXPECT_EQ(holm({0.9, 0.5}), (std::vector<double>{1, 1}));
    EXPECT_DOUBLE_EQ(shift({1, 2, 3}, {11, 12, 14}), 10);
}

/// One run: two figures over rounds, with noise; times are multiplied by what the program and the machine make of them.
struct Plan {
    double program = 1;   ///< time of the first figure
    double machine = 1;   ///< time of both, and of the probes
    double noise = 0.01;  ///< standard deviation of the logarithm
    std::size_t rounds = 6;
};

Results make_run(const Plan& plan, std::uint64_t seed) {
    const core::CounterRandom random(seed, 0);
    std::uint64_t draws = 0;
    const auto noisy = [&](double value) { return value * std::exp(plan.noise * random.normal(draws++)); };
    CaseResult result = {
        .name = "layer", .benchmark = "layer", .machine = MachineSamples{.level = "amx", .peak = {}, .dram_read = {}}};
    Figure time = {.name = "time", .unit = "ms", .better = Better::lower};
    Figure speed = {.name = "speed", .unit = "GFLOP/s", .better = Better::higher};
    constexpr int repetitions = 4;
    for (std::size_t round = 0; round < plan.rounds; ++round) {
        result.rounds.push_back(repetitions);
        for (int i = 0; i < repetitions; ++i) {
            time.samples.push_back(noisy(5 * plan.program * plan.machine));
            speed.samples.push_back(noisy(100 / plan.machine));
            result.machine->peak.push_back(noisy(1000 / plan.machine));
            result.machine->dram_read.push_back(noisy(50 / plan.machine));
        }
    }
    result.figures = {time, speed};
    Results run;
    run.ranks = nlohmann::ordered_json::array({nlohmann::ordered_json::object()});
    run.cases = {result};
    return run;
}

TEST(Compare, APlantedSlowdownIsFlagged) {
    const Comparison comparison = compare({make_run({}, 1)}, {make_run({.program = 1.1}, 2)}, 5);
    ASSERT_EQ(comparison.changes.size(), 2U);
    EXPECT_EQ(comparison.changes[0].figure, "layer/time");
    EXPECT_EQ(comparison.changes[0].verdict, Verdict::slower);
    EXPECT_NEAR(comparison.changes[0].percent, 10, 2);
    EXPECT_EQ(comparison.changes[1].verdict, Verdict::same);
    EXPECT_TRUE(comparison.fails(false));
    EXPECT_FALSE(compare({make_run({}, 1)}, {make_run({.program = 1.1}, 2)}, 15).fails(false));
    const Comparison reverse = compare({make_run({.program = 1.1}, 2)}, {make_run({}, 1)}, 5);
    EXPECT_EQ(reverse.changes[0].verdict, Verdict::faster);
    EXPECT_FALSE(reverse.fails(false));
    EXPECT_NE(to_text(comparison, 5).find("SLOWER"), std::string::npos);
}

TEST(Compare, TheMachineExplainsItsShare) {
    // The whole machine slower by a quarter: its probes say so.
    EXPECT_FALSE(compare({make_run({}, 1)}, {make_run({.machine = 1.25}, 2)}, 5).fails(false));
    // A slow-down on top of that is still found.
    const Comparison both = compare({make_run({}, 1)}, {make_run({.program = 1.2, .machine = 1.25}, 2)}, 5);
    EXPECT_EQ(both.changes[0].verdict, Verdict::slower);
    EXPECT_NEAR(both.changes[0].percent, 20, 4);
    EXPECT_NEAR(both.changes[0].raw_percent, 50, 5);
    EXPECT_EQ(both.changes[1].verdict, Verdict::machine);
}

/// Reading memory is what neighbours disturb most; it explains nothing unless it changed.
TEST(Compare, ANoisyLimitHidesNothing) {
    Results a = make_run({.rounds = 10}, 1);
    Results b = make_run({.program = 1.3, .rounds = 10}, 2);
    const core::CounterRandom random(9, 0);
    std::uint64_t draws = 0;
    for (Results* run : {&a, &b}) {
        for (double& rate : run->cases[0].machine->dram_read) {
            rate *= std::exp(0.6 * random.normal(draws++));
        }
    }
    const Comparison comparison = compare({a}, {b}, 5);
    EXPECT_EQ(comparison.changes[0].verdict, Verdict::slower) << to_text(comparison, 5);
    EXPECT_NEAR(comparison.changes[0].percent, 30, 3);
    EXPECT_EQ(comparison.changes[1].verdict, Verdict::same);
}

TEST(Compare, AMachineOfHalfTheSpeedIsNamed) {
    const Comparison comparison = compare({make_run({}, 1)}, {make_run({.machine = 2}, 2)}, 5);
    EXPECT_EQ(comparison.changes[0].verdict, Verdict::machine);
    EXPECT_NEAR(comparison.changes[0].raw_percent, 100, 5);
    EXPECT_FALSE(comparison.fails(true));
}

TEST(Compare, WhatIsUnclearOrMissingFailsTheGate) {
    Results b = make_run({.program = 1.2, .noise = 0.3}, 2);
    const Comparison unclear = compare({make_run({.noise = 0.3}, 1)}, {b}, 5);
    EXPECT_EQ(unclear.changes[0].verdict, Verdict::unclear);
    EXPECT_FALSE(unclear.fails(/*strict=*/false));
    EXPECT_TRUE(unclear.fails(/*strict=*/true));
    b = make_run({}, 2);
    b.cases[0].figures.pop_back();
    const Comparison missing = compare({make_run({}, 1)}, {b}, 5);
    EXPECT_EQ(missing.changes[1].verdict, Verdict::missing);
    EXPECT_TRUE(missing.fails(/*strict=*/false));
}

/// Runs in turns of which one was cut short: without pairs, rounds are compared as those of single runs.
TEST(Compare, TurnsWithoutPairsAreSingleRuns) {
    Results a = make_run({.noise = 0.1, .rounds = 20}, 1);
    Results b = make_run({.program = 1.12, .noise = 0.1, .rounds = 19}, 2);
    a.turns = b.turns = true;
    const Change change = compare({a}, {b}, 5).changes[0];
    EXPECT_EQ(change.pairing, Pairing::rounds);
    EXPECT_LT(change.p, 0.01);
    EXPECT_LT(change.percent, 2 * change.noise_percent);
    EXPECT_EQ(change.verdict, Verdict::unclear);
}

TEST(Compare, CasesOfOtherParametersAreRefused) {
    Results a = make_run({}, 1);
    Results b = make_run({}, 2);
    a.cases[0].parameters = {{"tokens", "256"}};
    EXPECT_NO_THROW(static_cast<void>(compare({a}, {b}, 5)));  // B is from before the option
    b.cases[0].parameters = {{"tokens", "1024"}};
    EXPECT_THROW(static_cast<void>(compare({a}, {b}, 5)), core::Error);
}

/// Whole runs differ by more than their rounds do: 5 % against 1 %.
TEST(Compare, RunsOfOneBuildAreTheSame) {
    const core::CounterRandom random(11, 0);
    std::uint64_t draws = 0;
    int alarms = 0;
    constexpr std::uint64_t trials = 100;
    for (std::uint64_t trial = 0; trial < trials; ++trial) {
        std::vector<std::vector<Results>> sides(2);
        for (auto& side : sides) {
            for (std::uint64_t run = 0; run < 3; ++run) {
                const double state = std::exp(0.05 * random.normal(draws++));
                side.push_back(make_run({.program = state}, draws));
            }
        }
        const Comparison comparison = compare(sides[0], sides[1], 5);
        EXPECT_EQ(comparison.pairing, Pairing::runs);
        const Verdict verdict = comparison.changes[0].verdict;
        alarms += verdict == Verdict::slower || verdict == Verdict::faster ? 1 : 0;
    }
    EXPECT_LE(alarms, 3);
}

/// 200 repetitions that share two states of the machine are no 200 observations.
TEST(Compare, RepetitionsWithoutRoundsAreCut) {
    Results a = make_run({.rounds = 1}, 1);
    Results b = make_run({.rounds = 1}, 2);
    for (Results* run : {&a, &b}) {
        run->cases[0].rounds = {200};
        run->cases[0].machine.reset();
        for (Figure& figure : run->cases[0].figures) {
            figure.samples.clear();
            for (int i = 0; i < 200; ++i) {
                const bool second_mood = run == &b ? i >= 60 : i >= 140;
                figure.samples.push_back(second_mood ? 1.2 + 1e-6 * i : 1 + 1e-6 * i);
            }
        }
    }
    EXPECT_EQ(compare({a}, {b}, 5).changes[0].verdict, Verdict::unclear);
}

TEST(Compare, NoiseIsNoSlowdown) {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        const Comparison comparison =
            compare({make_run({.noise = 0.1}, 2 * seed)}, {make_run({.noise = 0.1}, 2 * seed + 1)}, 5);
        EXPECT_FALSE(comparison.fails(false)) << seed;
    }
    EXPECT_EQ(compare({make_run({.noise = 0.3}, 1)}, {make_run({.noise = 0.3}, 2)}, 5).changes[0].verdict,
              Verdict::unclear);
}

TEST(Compare, ManyRunsCountAsBlocks) {
    std::vector<Results> a;
    std::vector<Results> b;
    for (std::uint64_t i = 0; i < 7; ++i) {  // each run has a drift of its own that no probe sees
        a.push_back(make_run({.program = 1 + 0.02 * static_cast<double>(i % 3), .rounds = 1}, i));
        b.push_back(make_run({.program = 1.12 + 0.02 * static_cast<double>(i % 3), .rounds = 1}, i + 100));
    }
    const Comparison slower = compare(a, b, 5);
    EXPECT_EQ(slower.pairing, Pairing::runs);
    EXPECT_EQ(compare({a[0], a[1]}, {b[0], b[1]}, 5).pairing, Pairing::runs);
    EXPECT_EQ(slower.changes[0].verdict, Verdict::slower);
    EXPECT_FALSE(compare(a, a, 5).fails(false));
    EXPECT_EQ(compare({a[0]}, {b[0]}, 5).pairing, Pairing::rounds);
}

/// Two runs that took turns, on a machine whose speed drifts by far more than the change.
Comparison compare_turns(double change) {
    constexpr std::size_t rounds = 20;
    Results a = make_run({.rounds = rounds}, 1);
    Results b = make_run({.program = change, .rounds = rounds}, 2);
    for (Results* run : {&a, &b}) {
        run->turns = true;
        for (Figure& figure : run->cases[0].figures) {
            const std::size_t repetitions = figure.samples.size() / rounds;
            for (std::size_t i = 0; i < figure.samples.size(); ++i) {
                const double drift = 1 + 0.5 * std::abs(std::sin(i / repetitions));
                figure.samples[i] *= figure.better == Better::lower ? drift : 1 / drift;
            }
        }
    }
    return compare({a}, {b}, 5);
}

TEST(Compare, RoundsInTurnsAreComparedPairByPair) {
    const Comparison slower = compare_turns(1.1);
    EXPECT_EQ(slower.pairing, Pairing::turns);
    EXPECT_EQ(slower.changes[0].verdict, Verdict::slower);
    EXPECT_NEAR(slower.changes[0].percent, 10, 1);
    EXPECT_EQ(slower.changes[1].verdict, Verdict::same);
    EXPECT_EQ(compare_turns(1).changes[0].verdict, Verdict::same);
}

TEST(Compare, SidesWithoutCommonFiguresAreAnError) {
    Results other = make_run({}, 1);
    other.cases[0].name = "step";
    EXPECT_THROW(static_cast<void>(compare({make_run({}, 1)}, {other}, 5)), core::Error);
}

}  // namespace
}  // namespace moesaic::measure
