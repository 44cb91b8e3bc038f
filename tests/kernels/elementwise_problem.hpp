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
template <class T>
GuardedArray<T> values(index_t n, std::uint32_t seed, bool extremes = false) {
    using A = accumulator_t<T>;
    constexpr A infinity = std::numeric_limits<A>::infinity();
    constexpr std::array special = {infinity,
                                    -infinity,
                                    std::numeric_limits<A>::quiet_NaN(),
                                    std::numeric_limits<A>::denorm_min(),
                                    -std::numeric_limits<A>::min() / 3,
                                    std::numeric_limits<A>::max(),
                                    A(-1e30F),
                                    A(-0.0F),
                                    A(88.5F),
                                    A(-88.5F),
                                    A(-103.0F),
                                    A(104.0F)};
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> usual(-3.0F, 3.0F);
    GuardedArray<T> array(n);
    for (index_t i = 0; i < n; ++i) {
        array[i] = T(extremes && random() % 3 == 0 ? special[random() % special.size()] : A(usual(random)));
    }
    return array;
}

/// Equal bits; but any NaN will do for another.
template <class T>
void expect_same(const GuardedArray<T>& actual, const GuardedArray<T>& expected) {
    for (index_t i = 0; i < static_cast<index_t>(expected.size()); ++i) {
        const auto a = core::widen(actual[i]);
        const auto e = core::widen(expected[i]);
        ASSERT_TRUE((std::isnan(a) && std::isnan(e)) || std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0)
            << "element " << i << ": " << a << " instead of " << e;
    }
}

/// |actual - expected| <= roundings * eps * scale, where `scale` is at least the magnitude of the result, and one more
/// rounding to T. Infinite and NaN results are the same.
template <class T>
void expect_near(T actual, T expected, double roundings, double scale = 0) {
    const auto a = static_cast<double>(core::widen(actual));
    const auto e = static_cast<double>(core::widen(expected));
    if (!std::isfinite(a) || !std::isfinite(e)) {
        ASSERT_TRUE((std::isnan(a) && std::isnan(e)) || a == e) << a << " instead of " << e;
        return;
    }
    constexpr double epsilon = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
    constexpr double last = std::is_same_v<T, bf16> ? 0x1p-7 : 0;
    constexpr double smallest = std::is_same_v<T, bf16> ? 0x1p-133 : 0x1p-148;
    ASSERT_LE(std::abs(a - e), roundings * epsilon * std::max(std::abs(e), scale) + last * std::abs(e) + smallest)
        << a << " instead of " << e;
}
template <class T>
void expect_near(const GuardedArray<T>& actual, const GuardedArray<T>& expected, double roundings, double scale = 0) {
    for (index_t i = 0; i < static_cast<index_t>(expected.size()); ++i) {
        SCOPED_TRACE(testing::Message() << "element " << i);
        expect_near(actual[i], expected[i], roundings, scale);
        if (testing::Test::HasFatalFailure()) {
            return;
        }
    }
}

}  // namespace moesaic::kernels::test
