// How frozen weights are stored. A format is data, not a type: Scalar in the code is the type of activations alone.
#pragma once

#include "core/scalar.hpp"
#include "ops/blocks.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace moesaic::ops {

enum class WeightFormat : std::uint8_t { bf16, fp32, fp64 };

/// How kernels for activations of some type get at the elements of a format.
enum class Access : std::uint8_t {
    none,      ///< not at all: they would lose digits
    unpacked,  ///< panel by panel, in scratch memory that stays in the cache
    in_place,  ///< where they are stored
};

inline constexpr index_t line_bytes = 64;  ///< of caches

/// What there is to know about a format. Blocks are the unit of everything else: whatever a format has besides its
/// elements, such as scales, lies in the block behind them, so that strips, slices and prefetches need to know nothing
/// about it.
struct FormatFacts {
    WeightFormat format;
    std::string_view name;
    index_t block_bytes;  ///< of 32 x 32 elements and their scales; whole cache lines
    Access to_bf16;       ///< of kernels for BF16 activations
    Access to_float;
    Access to_double;  ///< for gradient checks
};

inline constexpr std::array weight_formats = {
    FormatFacts{WeightFormat::bf16, "BF16", 2 * block_elements, Access::in_place, Access::unpacked, Access::none},
    FormatFacts{WeightFormat::fp32, "FP32", 4 * block_elements, Access::none, Access::in_place, Access::none},
    FormatFacts{WeightFormat::fp64, "FP64", 8 * block_elements, Access::none, Access::none, Access::in_place},
};

[[nodiscard]] constexpr const FormatFacts& facts_of(WeightFormat format) {
    return weight_formats[static_cast<std::size_t>(format)];
}

/// How kernels for activations of type Scalar get at a format.
template <class Scalar>
[[nodiscard]] constexpr Access access_to(const FormatFacts& facts) {
    return std::is_same_v<Scalar, core::bf16> ? facts.to_bf16
           : std::is_same_v<Scalar, float>    ? facts.to_float
                                              : facts.to_double;
}
template <class Scalar>
[[nodiscard]] constexpr Access access_to(WeightFormat format) {
    return access_to<Scalar>(facts_of(format));
}

/// The format whose elements are of type Scalar.
template <class Scalar>
inline constexpr WeightFormat format_of =
    std::find_if(weight_formats.begin(), weight_formats.end(), [](const FormatFacts& facts) {
        return access_to<Scalar>(facts) == Access::in_place;
    })->format;

/// The format to hold weights in that come in `source`: that one if kernels for Scalar have access to it, else that of
/// Scalar.
template <class Scalar>
[[nodiscard]] constexpr WeightFormat format_for(std::optional<WeightFormat> source) {
    return source && access_to<Scalar>(*source) != Access::none ? *source : format_of<Scalar>;
}

}  // namespace moesaic::ops
