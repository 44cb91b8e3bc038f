// Codes of the quantised formats and the scales beside them: how a row of 32 weights is rounded to them, and what makes
// them numbers again. Private to packed_weights.cpp.
#pragma once

#include "core/small_floats.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/weights/coded_rows.hpp"
#include "ops/weights/weight_format.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace moesaic::ops::detail {

using core::bf16;
using kernels::WeightOrder;

template <class S>
float largest_magnitude(const S* row, index_t count) {
    float largest = 0;
    for (index_t i = 0; i < count; ++i) {
        const float magnitude = std::abs(static_cast<float>(row[i]));
        largest = std::isnan(largest) || magnitude <= largest ? largest : magnitude;  // NaN stays
    }
    return largest;
}

/// A row of a block, zeros beyond its end.
using BlockRow = std::array<float, kernel_block>;

struct Fp8Codec {
    static constexpr WeightFormat format = WeightFormat::fp8;
    using Code = std::uint8_t;
    static constexpr float largest = core::largest_e4m3;
    static Code encode(float value) { return core::narrow_to_e4m3(value); }
    static bool is_number(Code code) { return !std::isnan(core::widen_e4m3(code)); }
    template <class Kernels, class Sum, class Scalar>
    static void decode(const Kernels& kernels, index_t rows, const Code* codes, const Sum* scales, WeightOrder order,
                       Scalar* out) {
        kernels.decode_e4m3(rows, codes, scales, order, out);
    }
};

struct Int8Codec {
    static constexpr WeightFormat format = WeightFormat::int8;
    using Code = std::int8_t;
    static constexpr float largest = 127;
    static Code encode(float value) { return static_cast<Code>(std::nearbyint(value)); }
    static bool is_number(Code) { return true; }
    template <class Kernels, class Sum, class Scalar>
    static void decode(const Kernels& kernels, index_t rows, const Code* codes, const Sum* scales, WeightOrder order,
                       Scalar* out) {
        kernels.decode_integers(rows, codes, scales, nullptr, order, out);
    }
};

/// All blocks of a row have its scale.
struct Int8RowsCodec : Int8Codec {
    static constexpr WeightFormat format = WeightFormat::int8_rows;
};

/// What makes the codes of a row of a block numbers: scales of its halves, and a zero point for those that have one.
struct RowScale {
    std::array<float, 2> halves{};
    float zero = 0;
};

/// Codes 0 to 15 are -8 to 7.
struct Int4Codec {
    static constexpr WeightFormat format = WeightFormat::int4;
    static constexpr std::size_t sides = 1;
    using Scales = std::array<bf16, kernel_block>;
    static constexpr bool has_zeros = false;
    static constexpr float usual_zero = 0;
    static float common_of(float) { return 1; }
    static RowScale fit(const BlockRow& row, float) {
        const float scale = largest_magnitude(row.data(), kernel_block) / 7;
        return {{scale, scale}};
    }
    static void put(Scales& scales, index_t row, const RowScale& scale, float) {
        scales[static_cast<std::size_t>(row)] = bf16(scale.halves[0]);
    }
    static RowScale get(const Scales& scales, index_t row) {
        const auto scale = static_cast<float>(scales[static_cast<std::size_t>(row)]);
        return {{scale, scale}};
    }
    static std::uint8_t encode(float value, float scale, float) {
        return static_cast<std::uint8_t>(
            std::clamp(static_cast<int>(std::nearbyint(scale > 0 ? value / scale : 0)), -8, 7) + int4_offset);
    }
};

/// Codes 0 to 15 minus a zero point, as GPTQ and AWQ have them. A word holds both: a float of 15 bits of mantissa,
/// which BF16 and F16 scales need no more of, and the zero point in the bits below.
struct Uint4Codec {
    static constexpr WeightFormat format = WeightFormat::uint4;
    static constexpr std::size_t sides = 1;
    using Scales = std::array<std::uint32_t, kernel_block>;
    static constexpr bool has_zeros = true;
    static constexpr std::uint32_t zero_bits = 0xff;
    static constexpr float usual_zero = int4_offset;
    static float common_of(float) { return 1; }
    static RowScale fit(const BlockRow& row, float) {
        const auto [least, most] = std::minmax_element(row.begin(), row.end());
        const float low = std::min(*least, 0.0F);
        const float scale = (std::max(*most, 0.0F) - low) / 15;
        return {{scale, scale}, scale > 0 ? std::nearbyint(-low / scale) : 0};
    }
    static void put(Scales& scales, index_t row, const RowScale& scale, float) {
        const auto bits = std::bit_cast<std::uint32_t>(scale.halves[0]) + zero_bits / 2 + 1;
        scales[static_cast<std::size_t>(row)] = (bits & ~zero_bits) | static_cast<std::uint32_t>(scale.zero);
    }
    static RowScale get(const Scales& scales, index_t row) {
        const std::uint32_t bits = scales[static_cast<std::size_t>(row)];
        const auto scale = std::bit_cast<float>(bits & ~zero_bits);
        return {{scale, scale}, static_cast<float>(bits & zero_bits)};
    }
    static std::uint8_t encode(float value, float scale, float zero) {
        return static_cast<std::uint8_t>(
            std::clamp(static_cast<int>(std::nearbyint((scale > 0 ? value / scale : 0) + zero)), 0, 15));
    }
};

/// Codes of FP4 E2M1, of the OCP Microscaling Formats 1.0.
struct E2m1Codec {
    static constexpr bool has_zeros = false;
    static constexpr float usual_zero = 0;
    static std::uint8_t encode(float value, float scale, float) {
        return core::narrow_to_e2m1(scale > 0 ? value / scale : 0);
    }
};

/// Microscaling FP4 of the OCP specification: a power of two for 32 elements.
struct Mxfp4Codec : E2m1Codec {
    static constexpr WeightFormat format = WeightFormat::mxfp4;
    static constexpr std::size_t sides = 1;
    using Scales = std::array<std::uint8_t, kernel_block>;
    static constexpr int largest_exponent = 2;  // of E2M1
    static float common_of(float) { return 1; }
    static RowScale fit(const BlockRow& row, float) {
        const float largest = largest_magnitude(row.data(), kernel_block);
        const float scale = largest > 0 ? std::ldexp(1.0F, std::ilogb(largest) - largest_exponent) : 0;
        return {{scale, scale}};
    }
    static void put(Scales& scales, index_t row, const RowScale& scale, float) {
        scales[static_cast<std::size_t>(row)] = core::narrow_to_e8m0(scale.halves[0]);
    }
    static RowScale get(const Scales& scales, index_t row) {
        const float scale = core::widen_e8m0(scales[static_cast<std::size_t>(row)]);
        return {{scale, scale}};
    }
};

/// NVIDIA's FP4: an E4M3 scale for 16 elements, and an FP32 scale that many blocks have in common.
struct Nvfp4Codec : E2m1Codec {
    static constexpr WeightFormat format = WeightFormat::nvfp4;
    static constexpr std::size_t sides = 2;
    struct Scales {
        std::array<std::array<std::uint8_t, 2>, kernel_block> halves;
        float common;
    };
    static float common_of(float largest) {
        return largest > 0 ? largest / (core::largest_e4m3 * core::largest_e2m1) : 1;
    }
    static RowScale fit(const BlockRow& row, float common) {
        constexpr index_t half = kernel_block / 2;
        const float factor = 1 / (core::largest_e2m1 * common);
        return {{largest_magnitude(row.data(), half) * factor, largest_magnitude(row.data() + half, half) * factor}};
    }
    static void put(Scales& scales, index_t row, const RowScale& scale, float common) {
        scales.common = common;
        std::transform(scale.halves.begin(), scale.halves.end(), scales.halves[static_cast<std::size_t>(row)].begin(),
                       core::narrow_to_e4m3);
    }
    /// Numbers of E4M3 by code: blocks have 64 of them.
    static constexpr auto numbers = [] {
        std::array<float, 256> all{};
        for (std::size_t code = 0; code < all.size(); ++code) {
            all[code] = core::widen_e4m3(static_cast<std::uint8_t>(code));
        }
        return all;
    }();
    static RowScale get(const Scales& scales, index_t row) {
        RowScale scale;
        std::transform(scales.halves[static_cast<std::size_t>(row)].begin(),
                       scales.halves[static_cast<std::size_t>(row)].end(), scale.halves.begin(),
                       [&](std::uint8_t half) { return numbers[half] * scales.common; });
        return scale;
    }
};

}  // namespace moesaic::ops::detail
