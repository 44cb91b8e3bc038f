// Blocks of 32 x 32 weights in every format: how plain elements and codes of files are stored in them, and how they
// become elements that kernels multiply. Private to packed_weights.cpp.
#pragma once

#include "core/finite.hpp"
#include "ops/weights/weight_codecs.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>

namespace moesaic::ops::detail {

/// Blocks of a format whose elements stand alone: [32][32] of E.
template <class E>
struct PlainBlocks {
    static constexpr WeightFormat format = format_of<E>;

    /// Stores at most 32 x 32 elements, and zeros beyond them; false if one of them is not finite.
    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block) {
        E* out = reinterpret_cast<E*>(block);
        if (plain.rows() < kernel_block || plain.cols() < kernel_block) {
            std::fill_n(out, block_elements, static_cast<E>(0.0F));
        }
        for (index_t row = 0; row < plain.rows(); ++row) {
            std::transform(plain[row], plain[row] + plain.cols(), out + row * kernel_block,
                           [](S value) { return static_cast<E>(value); });
        }
        return core::all_finite(out, block_elements);
    }
    /// Writes rows of 32 elements.
    static void unpack(const kernels::KernelSet& kernels, const std::byte* block, WeightOrder, accumulator_t<E>* out,
                       index_t first_row = 0, index_t rows = kernel_block) {
        kernels.elementwise<E>().widen(rows * kernel_block,
                                       reinterpret_cast<const E*>(block) + first_row * kernel_block, out);
    }
};

template <class S>
BlockRow row_of(MatrixView<const S> plain, index_t row) {
    BlockRow values{};
    std::transform(plain[row], plain[row] + plain.cols(), values.begin(), [](S v) { return static_cast<float>(v); });
    return values;
}

/// Codes of a part of coded rows, and what makes them weights.
struct CodedBlock {
    const CodedRows& from;
    index_t row;
    index_t col;
    index_t rows;
    index_t cols;

    [[nodiscard]] const std::uint8_t* codes(index_t r) const { return from.codes.view()[row + r] + col; }
    /// Of the element in column `c` of the block.
    [[nodiscard]] float scale(index_t r, index_t c = 0) const { return at(from.scales, r, c); }
    [[nodiscard]] float zero(index_t r) const { return at(from.zeros, r, 0); }
    [[nodiscard]] bool has_zeros() const { return from.zeros.size() > 0; }

private:
    [[nodiscard]] float at(const core::Matrix<float>& values, index_t r, index_t c) const {
        const index_t last = from.codes.cols() - 1;
        return values.view()(row + r, std::min(col + c, last) / from.columns_of_scale);
    }
};

/// Blocks of codes [32][32] and their FP32 scales, one for each row. Codec: Code, a whole byte; the largest number that
/// it expresses; encode(value / scale); is_number(code); decode(kernels, rows, codes, scales, order, out).
template <class Codec>
struct ByteBlocks {
    static constexpr WeightFormat format = Codec::format;
    using Code = typename Codec::Code;

    /// That of all blocks of a row, or of one.
    template <class S>
    static float scale_of(const S* row, index_t count) {
        return largest_magnitude(row, count) / Codec::largest;
    }
    /// `row_scales`: those of whole rows, where the format has them.
    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block, const float* row_scales = nullptr) {
        Code* codes = clear(block);
        bool finite = true;
        for (index_t row = 0; row < plain.rows(); ++row, codes += kernel_block) {
            const float scale = row_scales != nullptr ? row_scales[row] : scale_of(plain[row], plain.cols());
            finite = finite && std::isfinite(scale);
            scales_of(block)[row] = scale;
            for (index_t col = 0; col < plain.cols() && scale > 0; ++col) {
                codes[col] = Codec::encode(static_cast<float>(plain(row, col)) / scale);
            }
        }
        return finite;
    }
    /// Stores codes as they are; false if one of them, or a scale, is no finite number.
    static bool store_codes(const CodedBlock& coded, std::byte* block) {
        Code* codes = clear(block);
        bool finite = true;
        for (index_t row = 0; row < coded.rows; ++row, codes += kernel_block) {
            std::memcpy(codes, coded.codes(row), static_cast<std::size_t>(coded.cols));
            scales_of(block)[row] = coded.scale(row) * coded.from.common_scale;
            finite = finite && std::isfinite(scales_of(block)[row] * Codec::largest) &&
                     std::all_of(codes, codes + coded.cols, Codec::is_number);
        }
        return finite;
    }
    template <class Scalar>
    static void unpack(const kernels::KernelSet& kernels, const std::byte* block, WeightOrder order, Scalar* out,
                       index_t first_row = 0, index_t rows = kernel_block) {
        std::array<accumulator_t<Scalar>, kernel_block> scales;
        std::copy_n(scales_of(block) + first_row, rows, scales.begin());
        Codec::decode(kernels.elementwise<Scalar>(), rows,
                      reinterpret_cast<const Code*>(block) + first_row * kernel_block, scales.data(), order, out);
    }

private:
    /// Zeros in all codes and scales; the codes.
    static Code* clear(std::byte* block) {
        std::fill_n(block, facts_of(format).block_bytes, std::byte{});
        return reinterpret_cast<Code*>(block);
    }
    static float* scales_of(std::byte* block) { return reinterpret_cast<float*>(block + block_elements); }
    static const float* scales_of(const std::byte* block) {
        return reinterpret_cast<const float*>(block + block_elements);
    }
};

/// Numbers of 4-bit codes.
template <class Sum>
constexpr std::array<Sum, 16> numbers_of_codes(WeightFormat format) {
    std::array<Sum, 16> all{};
    for (std::size_t code = 0; code < all.size(); ++code) {
        all[code] = static_cast<Sum>(number_of_code(format, static_cast<std::uint8_t>(code)));
    }
    return all;
}

/// Blocks of 4-bit codes as ElementwiseTable::decode_nibbles takes them, and scales. Codec: Scales of a block, all
/// bytes zero at first; common_of(largest magnitude of a block); fit(row, common) for the rounding of plain rows;
/// put(scales, row, RowScale, common) and get(scales, row); encode(value, scale, zero); sides, 2 if the halves of a row
/// have scales of their own; has_zeros.
template <class Codec>
struct NibbleBlocks {
    static constexpr WeightFormat format = Codec::format;
    using Scales = typename Codec::Scales;
    static_assert(block_elements / 2 + static_cast<index_t>(sizeof(Scales)) <= facts_of(format).block_bytes);

    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block) {
        Scales& scales = clear(block);
        float largest = 0;
        for (index_t row = 0; row < plain.rows(); ++row) {
            const float of_row = largest_magnitude(plain[row], plain.cols());
            largest = std::isnan(largest) || of_row <= largest ? largest : of_row;
        }
        if (!std::isfinite(largest)) {
            return false;
        }
        const float common = Codec::common_of(largest);
        for (index_t row = 0; row < plain.rows(); ++row) {
            const BlockRow values = row_of(plain, row);
            Codec::put(scales, row, Codec::fit(values, common), common);
            const RowScale scale = Codec::get(scales, row);
            Codes codes;
            for (std::size_t i = 0; i < codes.size(); ++i) {
                codes[i] = Codec::encode(values[i], scale.halves[i / row_bytes], scale.zero);
            }
            pack(codes, block + row * row_bytes);
        }
        return true;
    }
    /// Stores codes as they are; false if a weight could be no finite number.
    static bool store_codes(const CodedBlock& coded, std::byte* block) {
        Scales& scales = clear(block);
        const float common = coded.from.common_scale;
        bool finite = std::isfinite(common);
        for (index_t row = 0; row < coded.rows; ++row) {
            const RowScale scale = {{coded.scale(row), coded.scale(row, row_bytes)},
                                    coded.has_zeros() ? coded.zero(row) : Codec::usual_zero};
            Codec::put(scales, row, scale, common);
            constexpr float largest_number = 256;  // of codes and zero points
            const RowScale stored = Codec::get(scales, row);
            finite = finite && std::isfinite(scale.halves[0]) && std::isfinite(scale.halves[1]) &&
                     std::isfinite(stored.halves[0] * largest_number) &&
                     std::isfinite(stored.halves[1] * largest_number);
            Codes codes;
            codes.fill(Codec::encode(0, 0, scale.zero));
            std::copy_n(coded.codes(row), coded.cols, codes.begin());
            pack(codes, block + row * row_bytes);
        }
        return finite;
    }
    template <class Scalar>
    static void unpack(const kernels::KernelSet& kernels, const std::byte* block, WeightOrder order, Scalar* out,
                       index_t first_row = 0, index_t rows = kernel_block) {
        using Sum = accumulator_t<Scalar>;
        constexpr std::size_t sides = Codec::sides;
        std::array<Sum, sides * kernel_block> scales;
        std::array<Sum, kernel_block> zeros;
        for (index_t row = 0; row < rows; ++row) {
            const auto i = static_cast<std::size_t>(row);
            const RowScale scale = Codec::get(*reinterpret_cast<const Scales*>(block + codes_bytes), first_row + row);
            for (std::size_t side = 0; side < sides; ++side) {
                scales[sides * i + side] = static_cast<Sum>(scale.halves[side]);
            }
            if constexpr (Codec::has_zeros) {
                zeros[i] = static_cast<Sum>(scale.zero);
            }
        }
        static constexpr std::array<Sum, 16> values = numbers_of_codes<Sum>(format);
        kernels.elementwise<Scalar>().decode_nibbles(
            rows, reinterpret_cast<const std::uint8_t*>(block) + first_row * row_bytes, values.data(), sides,
            scales.data(), Codec::has_zeros ? zeros.data() : nullptr, order, out);
    }

private:
    using Codes = std::array<std::uint8_t, kernel_block>;  // of a row
    static constexpr index_t row_bytes = kernel_block / 2;
    static constexpr index_t codes_bytes = block_elements / 2;

    static Scales& clear(std::byte* block) {
        std::fill_n(block, facts_of(format).block_bytes, std::byte{});
        return *reinterpret_cast<Scales*>(block + codes_bytes);
    }
    static void pack(const Codes& codes, std::byte* out) {
        for (std::size_t i = 0; i < row_bytes; ++i) {
            out[i] = static_cast<std::byte>(codes[i] | codes[row_bytes + i] << 4U);
        }
    }
};

/// Calls body(blocks) with an object whose type knows the blocks of the format.
template <class Body>
void with_blocks(WeightFormat format, const Body& body) {
    switch (format) {
        case WeightFormat::bf16:
            return body(PlainBlocks<bf16>());
        case WeightFormat::fp32:
            return body(PlainBlocks<float>());
        case WeightFormat::fp64:
            return body(PlainBlocks<double>());
        case WeightFormat::fp8:
            return body(ByteBlocks<Fp8Codec>());
        case WeightFormat::int8:
            return body(ByteBlocks<Int8Codec>());
        case WeightFormat::int8_rows:
            return body(ByteBlocks<Int8RowsCodec>());
        case WeightFormat::int4:
            return body(NibbleBlocks<Int4Codec>());
        case WeightFormat::uint4:
            return body(NibbleBlocks<Uint4Codec>());
        case WeightFormat::mxfp4:
            return body(NibbleBlocks<Mxfp4Codec>());
        case WeightFormat::nvfp4:
            return body(NibbleBlocks<Nvfp4Codec>());
    }
}

}  // namespace moesaic::ops::detail
