// Conversion of stored elements to the types that the project computes with. Private to src/io.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/scalar.hpp"
#include "core/small_floats.hpp"
#include "io/safetensors.hpp"

namespace moesaic::io::detail {

/// Nearest bf16, ties to even. Going through the nearest float would round twice; the float next towards zero with its
/// last bit set ("round to odd") keeps what the second rounding has to know.
[[nodiscard]] inline core::bf16 narrow_to_bf16(double value) noexcept {
    const auto nearest = static_cast<float>(value);
    auto bits = std::bit_cast<std::uint32_t>(nearest);
    const double back = nearest;
    if (!std::isnan(value) && back != value) {
        bits -= std::abs(back) > std::abs(value) ? 1U : 0U;
        bits |= 1U;
    }
    return core::bf16(std::bit_cast<float>(bits));
}

template <class T>
[[nodiscard]] T narrow(double value) noexcept {
    if constexpr (std::is_same_v<T, core::bf16>) {
        return narrow_to_bf16(value);
    } else {
        return static_cast<T>(value);
    }
}
template <class T>
[[nodiscard]] T narrow(float value) noexcept {
    return T(value);
}

template <class Stored, class T, class Widen>
void convert_each(const std::byte* in, T* out, std::size_t count, Widen widen) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        Stored stored;
        std::memcpy(&stored, in + i * sizeof(Stored), sizeof(Stored));
        out[i] = narrow<T>(widen(stored));
    }
}

/// The dtype whose elements are T bit by bit.
template <class T>
inline constexpr DType native_dtype = std::is_same_v<T, core::bf16> ? DType::bf16
                                      : std::is_same_v<T, float>    ? DType::f32
                                                                    : DType::f64;

/// Whether `convert_elements` knows the type.
[[nodiscard]] constexpr bool is_convertible(DType dtype) noexcept {
    return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 ||
           dtype == DType::f8_e4m3;
}

/// Converts `count` stored elements; `in` needs no alignment and T = dtype copies all bits, those of NaNs included.
template <class T>
void convert_elements(DType dtype, const std::byte* in, T* out, std::size_t count) noexcept {
    if (dtype == native_dtype<T>) {
        std::memcpy(out, in, count * sizeof(T));
    } else if (dtype == DType::f64) {
        convert_each<double>(in, out, count, [](double value) { return value; });
    } else if (dtype == DType::f32) {
        convert_each<float>(in, out, count, [](float value) { return value; });
    } else if (dtype == DType::f16) {
        convert_each<std::uint16_t>(in, out, count, core::widen_f16);
    } else if (dtype == DType::bf16) {
        convert_each<core::bf16>(in, out, count, [](core::bf16 value) { return static_cast<float>(value); });
    } else {
        convert_each<std::uint8_t>(in, out, count, core::widen_e4m3);
    }
}

}  // namespace moesaic::io::detail
