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

enum class WeightFormat : std::uint8_t { bf16, fp32, fp64, fp8, int8, int8_rows, int4, uint4, mxfp4, nvfp4 };

/// What weights may be held in, for those who choose: as they come, or rounded to a format.
enum class WeightChoice : std::uint8_t { automatic, bf16, fp8, int8, int4, mxfp4 };
constexpr auto names_of(WeightChoice) {
    return std::to_array<std::string_view>({"auto", "bf16", "fp8", "int8", "int4", "mxfp4"});
}
/// Nothing for `automatic`.
[[nodiscard]] constexpr std::optional<WeightFormat> chosen_format(WeightChoice choice) {
    switch (choice) {
        case WeightChoice::automatic:
            break;
        case WeightChoice::bf16:
            return WeightFormat::bf16;
        case WeightChoice::fp8:
            return WeightFormat::fp8;
        case WeightChoice::int8:
            return WeightFormat::int8;
        case WeightChoice::int4:
            return WeightFormat::int4;
        case WeightChoice::mxfp4:
            return WeightFormat::mxfp4;
    }
    return std::nullopt;
}

/// What routed experts multiply their frozen weights in: the type of activations, or whole numbers.
enum class ExpertArithmetic : std::uint8_t { automatic, int8 };
constexpr auto names_of(ExpertArithmetic) {
    return std::to_array<std::string_view>({"auto", "int8"});
}

/// How kernels for activations of some type get at the elements of a format.
enum class Access : std::uint8_t {
    none,      ///< not at all: they would lose digits
    unpacked,  ///< panel by panel, in scratch memory that stays in the cache
    in_place,  ///< where they are stored
    integers,  ///< codes are multiplied as they are, by activations that are rounded as well (integer_products.hpp)
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
    // A scale for each row of a block: in FP32, which whole rows have in common in the one that is multiplied as it is,
    // BF16, FP32 beside a zero point, as a power of two; NVFP4 has two in E4M3.
    FormatFacts{WeightFormat::fp8, "FP8", block_elements + 4 * kernel_block, Access::unpacked, Access::unpacked,
                Access::unpacked},
    FormatFacts{WeightFormat::int8, "INT8", block_elements + 4 * kernel_block, Access::unpacked, Access::unpacked,
                Access::unpacked},
    FormatFacts{WeightFormat::int8_rows, "INT8 by rows", block_elements + 4 * kernel_block, Access::integers,
                Access::unpacked, Access::unpacked},
    FormatFacts{WeightFormat::int4, "INT4", block_elements / 2 + 2 * kernel_block, Access::unpacked, Access::unpacked,
                Access::unpacked},
    FormatFacts{WeightFormat::uint4, "UINT4", block_elements / 2 + 4 * kernel_block, Access::unpacked, Access::unpacked,
                Access::unpacked},
    FormatFacts{WeightFormat::mxfp4, "MXFP4", block_elements / 2 + line_bytes, Access::unpacked, Access::unpacked,
                Access::unpacked},
    FormatFacts{WeightFormat::nvfp4, "NVFP4", block_elements / 2 + 2 * line_bytes, Access::unpacked, Access::unpacked,
                Access::unpacked},
};

[[nodiscard]] constexpr const FormatFacts& facts_of(WeightFormat format) {
    return weight_formats[static_cast<std::size_t>(format)];
}

/// Cache lines of a block.
[[nodiscard]] constexpr index_t lines_of_block(WeightFormat format) {
    return facts_of(format).block_bytes / line_bytes;
}

/// Bytes that an element takes, with its share of the scales.
[[nodiscard]] constexpr double bytes_per_weight(WeightFormat format) {
    return static_cast<double>(facts_of(format).block_bytes) / static_cast<double>(block_elements);
}

/// Whether the format's elements are codes that scales make numbers.
[[nodiscard]] constexpr bool is_coded(WeightFormat format) {
    return facts_of(format).to_double == Access::unpacked;
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
