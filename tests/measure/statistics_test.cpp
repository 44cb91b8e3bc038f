#include "measure/statistics.hpp"

#include "core/random.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace moesaic::measure {
namespace {

std::vector<double> counting(std::size_t n) {
    std::vector<double> values(n);
    std::iota(values.begin(), values.end(), 1.0);
    return values;
}

TEST(Statistics, SummaryOfUnsortedSamples) {
    const Summary odd = summarize({3, 1, 2});
    EXPECT_EQ(odd.n, 3);
    EXPECT_EQ(odd.min, 1);
    EXPECT_EQ(odd.median, 2);
    EXPECT_EQ(odd.max, 3);
    EXPECT_EQ(summarize({4, 1, 3, 2}).median, 2.5);
    const Summary one = summarize({7});
    EXPECT_EQ(one.low, 7);
    EXPECT_EQ(one.high, 7);
}

/// The ranks of tables of the sign test's confidence interval, 95 %.
TEST(Statistics, IntervalOfTheMedianIsThatOfTheTables) {
    struct Case {
        std::size_t n;
        double low;
    };
    for (const auto& [n, low] : {Case{5, 1}, Case{6, 1}, Case{8, 1}, Case{9, 2}, Case{11, 2}, Case{12, 3}, Case{15, 4},
                                 Case{20, 6}, Case{25, 8}, Case{100, 40}, Case{1000, 469}, Case{10000, 4902}}) {
        const Summary summary = summarize(counting(n));
        EXPECT_EQ(summary.low, low) << n << " samples";
        EXPECT_EQ(summary.high, static_cast<double>(n) + 1 - low) << n << " samples";
    }
}

TEST(Statistics, IntervalHoldsTheMedianAsOftenAsItSays) {
    const core::CounterRandom random(3, 0);
    constexpr int trials = 2000;
    int held = 0;
    std::uint64_t draws = 0;
    for (int trial = 0; trial < trials; ++trial) {
        std::vector<double> samples(15);
        for (double& sample : samples) {
            const double u = random.uniform(draws++);
            sample = u * u * u;  // skewed; the median is 1/8
        }
        const Summary summary = summarize(samples);
        held += summary.low <= 0.125 && 0.125 <= summary.high ? 1 : 0;
    }
    EXPECT_GT(held, trials * 94 / 100);
}

TEST(Statistics, RatesAndUnits) {
    EXPECT_EQ(rates(8, {1, 2, 4}), (std::vector<double>{8, 4, 2}));
    EXPECT_EQ(scaled(1000, {1, 2}), (std::vector<double>{1000, 2000}));
    EXPECT_DOUBLE_EQ(summarize({9, 10, 11}).spread_percent(), 10);
}

}  // namespace
}  // namespace moesaic::measure
