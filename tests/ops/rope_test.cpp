// Frequencies of all RoPE types against their definitions.
#include "ops/rope.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numbers>

namespace moesaic::ops {
namespace {

RopeSettings settings_of(RopeType type) {
    RopeSettings settings;
    settings.type = type;
    settings.size = 8;
    settings.theta = 10000;
    settings.factor = 4;
    settings.trained_positions = 64;
    return settings;
}

void expect_frequencies(const std::vector<double>& found, const std::array<double, 4>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_NEAR(found[i], expected[i], 1e-12) << i;
    }
}

TEST(RopeFrequencies, AreThoseOfTheStandard) {
    expect_frequencies(rope_frequencies(settings_of(RopeType::standard), 1000), {1, 0.1, 0.01, 0.001});
}

TEST(RopeFrequencies, AreDividedByALinearFactor) {
    expect_frequencies(rope_frequencies(settings_of(RopeType::linear), 10), {0.25, 0.025, 0.0025, 0.00025});
}

TEST(RopeFrequencies, DependOnTheLongestSequenceIfDynamic) {
    const RopeSettings settings = settings_of(RopeType::dynamic);
    expect_frequencies(rope_frequencies(settings, 64), {1, 0.1, 0.01, 0.001});
    // Twice the trained positions: theta * (4 * 2 - 3)^(8 / 6).
    const double theta = 10000 * std::pow(5.0, 8.0 / 6.0);
    expect_frequencies(rope_frequencies(settings, 128),
                       {1, std::pow(theta, -0.25), std::pow(theta, -0.5), std::pow(theta, -0.75)});
}

/// Element i makes 64 * theta^(-i/4) / 2 pi turns over 64 positions: 10.2, 1.02, 0.1, 0.01. The ramp goes from the
/// element of 32 turns (-0.5, so 0) to that of one turn (1.008, so 2).
TEST(RopeFrequencies, GoFromKeptToInterpolatedWithYarn) {
    expect_frequencies(rope_frequencies(settings_of(RopeType::yarn), 10),
                       {1, 0.1 * (0.5 + 0.5 / 4), 0.01 / 4, 0.001 / 4});
}

TEST(RopeFrequencies, OfYarnMayHaveARampThatIsNotTruncated) {
    RopeSettings settings = settings_of(RopeType::yarn);
    settings.truncate = false;
    const double high = 8 * std::log(64 / (2 * std::numbers::pi)) / (2 * std::log(10000.0));
    const double kept = 1 - 1 / high;
    expect_frequencies(rope_frequencies(settings, 10), {1, 0.1 * (kept + (1 - kept) / 4), 0.01 / 4, 0.001 / 4});
}

/// Turns over 64 positions, as above: more than 4 are kept, less than 1 are stretched, 1.0186 is almost stretched.
TEST(RopeFrequencies, OfLlama3AreKeptForShortWaves) {
    const double turns = 64 * 0.1 / (2 * std::numbers::pi);
    const double kept = (turns - 1) / 3;
    expect_frequencies(rope_frequencies(settings_of(RopeType::llama3), 10),
                       {1, 0.1 * (kept + (1 - kept) / 4), 0.01 / 4, 0.001 / 4});
}

TEST(RotaryTable, RotatesTheFirstPairByThePosition) {
    const kernels::ElementwiseKernels<double>& kernels = *kernels::elementwise_kernels<double>().front().kernels;
    RopeSettings settings;
    settings.size = 4;
    for (const bool interleaved : {false, true}) {
        settings.interleaved = interleaved;
        RotaryTable<double> table(settings);
        table.extend(3);
        std::array<double, 6> head = {9, 1, 0, 0, 0, 9};
        table.rotate(kernels, {6, 1}, head, 2);
        EXPECT_NEAR(head[1], std::cos(2.0), 1e-15);
        EXPECT_NEAR(head[interleaved ? 2 : 3], std::sin(2.0), 1e-15);
        EXPECT_EQ(head[0], 9);
        EXPECT_EQ(head[5], 9);
    }
}

TEST(RotaryTable, IsComputedAnewForAnotherLongestSequence) {
    const kernels::ElementwiseKernels<double>& kernels = *kernels::elementwise_kernels<double>().front().kernels;
    const auto rotated = [&](RotaryTable<double>& table, index_t longest) {
        table.extend(longest);
        std::array<double, 8> head = {0, 1, 0, 0, 0, 0, 0, 0};
        table.rotate(kernels, {8, 0}, head, 5);
        return head[1];
    };
    RotaryTable<double> table(settings_of(RopeType::dynamic));
    const double longer = rotated(table, 200);
    EXPECT_NEAR(rotated(table, 10), std::cos(0.5), 1e-12);
    EXPECT_NE(longer, rotated(table, 10));
    EXPECT_EQ(longer, rotated(table, 200));
}

}  // namespace
}  // namespace moesaic::ops
