// Floating-point numbers of 16 bits and less that files and quantised weights are made of.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace moesaic::core {

/// IEEE binary16: 5 bits of exponent, 10 of mantissa. Every value is a float.
[[nodiscard]] inline float widen_f16(std::uint16_t bits) noexcept {
    const std::uint32_t sign = (bits & 0x8000U) << 16U;
    const std::uint32_t exponent = (bits >> 10U) & 0x1fU;
    const std::uint32_t mantissa = bits & 0x3ffU;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    const std::uint32_t wide_exponent = exponent == 0x1fU ? 0xffU : exponent + 112U;
    return std::bit_cast<float>(sign | (wide_exponent << 23U) | (mantissa << 13U));
}

/// FP8 E4M3 of "FP8 Formats for Deep Learning" (arXiv 2209.05433): bias 7, no infinities, NaN is all ones.
[[nodiscard]] constexpr float widen_e4m3(std::uint8_t bits) noexcept {
    const std::uint32_t sign = (bits & 0x80U) << 24U;
    const std::uint32_t exponent = (bits >> 3U) & 0xfU;
    const std::uint32_t mantissa = bits & 0x7U;
    if ((bits & 0x7fU) == 0x7fU) {
        return std::bit_cast<float>(sign | 0x7fc00000U);
    }
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    return std::bit_cast<float>(sign | ((exponent + 120U) << 23U) | (mantissa << 20U));
}

inline constexpr float largest_e4m3 = 448;

/// The nearest E4M3, ties to even mantissas, and the largest for what is beyond it. NaN gives NaN.
[[nodiscard]] inline std::uint8_t narrow_to_e4m3(float value) noexcept {
    const auto sign = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 24U & 0x80U);
    if (std::isnan(value)) {
        return sign | 0x7fU;
    }
    const float magnitude = std::min(std::abs(value), largest_e4m3);
    constexpr int smallest_exponent = -6;
    const int exponent = std::max(smallest_exponent, magnitude > 0 ? std::ilogb(magnitude) : smallest_exponent);
    const auto eighths = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
    // Eighths from 8 on have the implicit one, which makes the exponent's field one larger; 16 of them carry over.
    const int bits = eighths + 8 * (exponent - smallest_exponent);
    return sign | static_cast<std::uint8_t>(bits);
}

/// E8M0, a power of two, of the OCP Microscaling Formats 1.0: 2^(bits - 127); all ones are NaN.
[[nodiscard]] inline float widen_e8m0(std::uint8_t bits) noexcept {
    return bits == 0xffU ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, static_cast<int>(bits) - 127);
}

/// The power of two at or below a number that is not negative; the smallest one for what is below it.
[[nodiscard]] inline std::uint8_t narrow_to_e8m0(float value) noexcept {
    return static_cast<std::uint8_t>(value > 0 ? std::clamp(std::ilogb(value) + 127, 0, 254) : 0);
}

/// FP4 E2M1 of the same: the value of each code.
inline constexpr std::array<float, 16> values_of_e2m1 = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                                         -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
inline constexpr float largest_e2m1 = 6;

/// The nearest E2M1, ties to even mantissas, and the largest for what is beyond it.
[[nodiscard]] inline std::uint8_t narrow_to_e2m1(float value) noexcept {
    const float magnitude = std::min(std::abs(value), largest_e2m1);
    const auto distance = [&](std::size_t code) { return std::abs(values_of_e2m1[code] - magnitude); };
    std::size_t nearest = 0;
    for (std::size_t code = 1; code < values_of_e2m1.size() / 2; ++code) {
        const bool ties_to_even = distance(code) == distance(nearest) && code % 2 == 0;
        nearest = distance(code) < distance(nearest) || ties_to_even ? code : nearest;
    }
    return static_cast<std::uint8_t>(nearest + (std::signbit(value) ? values_of_e2m1.size() / 2 : 0));
}

}  // namespace moesaic::core
