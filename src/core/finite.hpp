// Whether numbers are finite, found by their bits: with vectors, while they are in the cache anyway.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace moesaic::core {

/// True if none of `count` elements is NaN or infinite. T: bf16, float or double.
template <class T>
[[nodiscard]] bool all_finite(const T* values, index_t count) noexcept {
    using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;
    constexpr Bits exponent = sizeof(T) == 2   ? Bits{0x7f80}
                              : sizeof(T) == 4 ? static_cast<Bits>(0x7f800000U)
                                               : static_cast<Bits>(0x7ff0000000000000U);
    Bits found = 0;
    for (index_t i = 0; i < count; ++i) {
        Bits bits;
        std::memcpy(&bits, values + i, sizeof(bits));
        found |= static_cast<Bits>((bits & exponent) == exponent);
    }
    return found == 0;
}

/// The same for a matrix.
template <class T>
[[nodiscard]] bool all_finite(MatrixView<T> matrix) noexcept {
    for (index_t row = 0; row < matrix.rows(); ++row) {
        if (!all_finite(matrix[row], matrix.cols())) {
            return false;
        }
    }
    return true;
}

}  // namespace moesaic::core
