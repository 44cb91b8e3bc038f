// Random rows for elementwise operations, and comparisons of results.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>

#include "gemm_problem.hpp"

namespace moesaic::kernels::test {

using core::bf16;

/// Of rows: around the numbers of lanes, and several vectors.
inline constexpr std::array<index_t, 17> sizes = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 128, 257, 1037};

/// Random values; with `extremes` also infinities, NaN, denormal and huge numbers.
template <class Scalar>
GuardedArray<Scalar> values(index_t n, std::uint32_t seed, bool extremes = false) {
    using Sum = accumulator_t<Scalar>;
    constexpr Sum infinity = std::numeric_limits<Sum>::infinity();
    constexpr std::array special = {infinity,
                                    -infinity,
                                    std::numeric_limits<Sum>::quiet_NaN(),
                                    std::numeric_limits<Sum>::denorm_min(),
                                    -std::numeric_limits<Sum>::min() / 3,
                                    std::numeric_limits<Sum>::max(),
                                    Sum(-1e30F),
                                    Sum(-0.0F),
                                    Sum(88.5F),
                                    Sum(-88.5F),
                                    Sum(-103.0F),
                                    Sum(104.0F)};
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> usual(-3.0F, 3.0F);
    GuardedArray<Scalar> array(n);
    for (index_t i = 0; i < n; ++i) {
        array[i] = Scalar(extremes && random() % 3 == 0 ? special[random() % special.size()] : Sum(usual(random)));
    }
    return array;
}

/// Equal bits; but any NaN will do for another.
template <class Scalar>
void expect_same(const GuardedArray<Scalar>& actual, const GuardedArray<Scalar>& expected) {
    for (index_t i = 0; i < static_cast<index_t>(expected.size()); ++i) {
        const auto a = core::widen(actual[i]);
        const auto e = core::widen(expected[i]);
        ASSERT_TRUE((std::isnan(a) && std::isnan(e)) || std::memcmp(&actual[i], &expected[i], sizeof(Scalar)) == 0)
            << "element " << i << ": " << a << " instead of " << e;
    }
}

/// |actual - expected| <= roundings * eps * scale, where `scale` is at least the magnitude of the result, and one more
/// rounding to Scalar. Infinite and NaN results are the same.
template <class Scalar>
void expect_near(Scalar actual, Scalar expected, double roundings, double scale = 0) {
    const auto a = static_cast<double>(core::widen(actual));
    const auto e = static_cast<double>(core::widen(expected));
    if (!std::isfinite(a) || !std::isfinite(e)) {
        ASSERT_TRUE((std::isnan(a) && std::isnan(e)) || a == e) << a << " instead of " << e;
        return;
    }
    constexpr double epsilon = std::is_same_v<Scalar, double> ? 0x1p-53 : 0x1p-24;
    constexpr double last = std::is_same_v<Scalar, bf16> ? 0x1p-7 : 0;
    constexpr double smallest = std::is_same_v<Scalar, bf16> ? 0x1p-133 : 0x1p-148;
    ASSERT_LE(std::abs(a - e), roundings * epsilon * std::max(std::abs(e), scale) + last * std::abs(e) + smallest)
        << a << " instead of " << e;
}
template <class Scalar>
void expect_near(const GuardedArray<Scalar>& actual, const GuardedArray<Scalar>& expected, double roundings,
                 double scale = 0) {
    for (index_t i = 0; i < static_cast<index_t>(expected.size()); ++i) {
        SCOPED_TRACE(testing::Message() << "element " << i);
        expect_near(actual[i], expected[i], roundings, scale);
        if (testing::Test::HasFatalFailure()) {
            return;
        }
    }
}

}  // namespace moesaic::kernels::test
