#include "ops/weights/packed_weights.hpp"

#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/small_floats.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace moesaic::ops {
namespace {

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

/// A row of a block, zeros beyond its end.
using BlockRow = std::array<float, kernel_block>;

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

    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block) {
        Code* codes = clear(block);
        bool finite = true;
        for (index_t row = 0; row < plain.rows(); ++row, codes += kernel_block) {
            const float scale = largest_magnitude(plain[row], plain.cols()) / Codec::largest;
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
            finite = finite && std::isfinite(scales_of(block)[row]) &&
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

/// Numbers of 4-bit codes.
template <class Sum>
constexpr std::array<Sum, 16> numbers_of_codes(WeightFormat format) {
    std::array<Sum, 16> all{};
    for (std::size_t code = 0; code < all.size(); ++code) {
        all[code] = static_cast<Sum>(number_of_code(format, static_cast<std::uint8_t>(code)));
    }
    return all;
}

/// What makes the codes of a row of a block numbers: scales of its halves, and a zero point for those that have one.
struct RowScale {
    std::array<float, 2> halves{};
    float zero = 0;
};

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
    /// Stores codes as they are; false if a scale or a zero point is no number that the format has.
    static bool store_codes(const CodedBlock& coded, std::byte* block) {
        Scales& scales = clear(block);
        const float common = coded.from.common_scale;
        bool finite = std::isfinite(common);
        for (index_t row = 0; row < coded.rows; ++row) {
            const RowScale scale = {{coded.scale(row), coded.scale(row, row_bytes)},
                                    coded.has_zeros() ? coded.zero(row) : Codec::usual_zero};
            finite = finite && std::isfinite(scale.halves[0]) && std::isfinite(scale.halves[1]);
            Codec::put(scales, row, scale, common);
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
    static RowScale get(const Scales& scales, index_t row) {
        RowScale scale;
        std::transform(scales.halves[static_cast<std::size_t>(row)].begin(),
                       scales.halves[static_cast<std::size_t>(row)].end(), scale.halves.begin(),
                       [&](std::uint8_t half) { return core::widen_e4m3(half) * scales.common; });
        return scale;
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

template <class Scalar>
[[noreturn]] void refuse(WeightFormat format) {
    core::fail(core::ExitCode::runtime_failure,
               "weights in {} don't serve activations in {} (kernels have no access to them); store them in {}",
               facts_of(format).name, facts_of(format_of<Scalar>).name, facts_of(format_of<Scalar>).name);
}

}  // namespace

template <class Scalar>
void unpack(const kernels::KernelSet& kernels, const StoredRun& run, WeightOrder order, const StoredRun& next,
            Scalar* out) {
    with_blocks(run.format, [&](auto blocks) {
        if constexpr (access_to<Scalar>(blocks.format) == Access::unpacked) {
            for (index_t b = 0; b < run.blocks; ++b) {
                if (b < next.blocks) {
                    ask_for_block(next, b);
                }
                blocks.unpack(kernels, run.block(b), order, out + b * block_elements);
            }
        } else {
            refuse<Scalar>(run.format);
        }
    });
    for (index_t b = run.blocks; b < next.blocks; ++b) {
        ask_for_block(next, b);
    }
}

template <class Scalar>
BlockRun<Scalar> panel_of(const kernels::KernelSet& kernels, const StoredRun& run, core::Buffer<Scalar>& scratch,
                          const StoredRun& next) {
    if (access_to<Scalar>(run.format) == Access::in_place) {
        return {reinterpret_cast<const Scalar*>(run.first), run.step / static_cast<index_t>(sizeof(Scalar)),
                run.blocks};
    }
    Scalar* out = scratch.reserve(static_cast<std::size_t>(run.blocks * block_elements));
    unpack(kernels, run, WeightOrder::rows, next, out);
    return {out, block_elements, run.blocks};
}

PackedWeights::PackedWeights(WeightFormat format, index_t rows, index_t cols, index_t count)
    : format_(format), rows_(rows), cols_(cols), row_stride_(row_stride_of(format, blocks_of(cols))) {
    buffer_.reserve(static_cast<std::size_t>(count * bytes_of(format, rows, cols)));
}

WeightFormat PackedMatrix::format() const noexcept {
    return weights_.format_;
}

index_t PackedMatrix::rows() const noexcept {
    return weights_.rows_;
}

index_t PackedMatrix::cols() const noexcept {
    return weights_.cols_;
}

MatrixView<std::byte> PackedMatrix::blocks() const noexcept {
    return {weights_.buffer_.data() + weights_.offset(number_, 0, 0), blocks_of(rows()),
            blocks_of(cols()) * facts_of(format()).block_bytes, weights_.row_stride_};
}

template <class Store>
bool PackedMatrix::store_blocks(index_t first, index_t rows, const Store& store) const {
    std::byte* begin = weights_.buffer_.data() + weights_.offset(number_, first / kernel_block, 0);
    bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
    for (index_t i = 0; i < blocks_of(rows); ++i) {
        for (index_t j = 0; j < blocks_of(cols()); ++j) {
            const bool stored =
                store(i * kernel_block, extent_of_block(rows, i), j * kernel_block, extent_of_block(cols(), j),
                      begin + i * weights_.row_stride_ + j * facts_of(format()).block_bytes);
            finite = finite && stored;
        }
    }
    return finite;
}

template <class S>
bool PackedMatrix::assign_rows(index_t first, MatrixView<const S> plain) const {
    bool finite = true;
    with_blocks(format(), [&](auto blocks) {
        if constexpr (access_to<S>(blocks.format) == Access::none) {
            refuse<S>(format());
        } else {
            finite = store_blocks(first, plain.rows(),
                                  [&](index_t row, index_t rows, index_t col, index_t columns, std::byte* block) {
                                      return blocks.store(plain.rows(row, rows).columns(col, columns), block);
                                  });
        }
    });
    return finite;
}

bool PackedMatrix::assign_codes(index_t first, const CodedRows& coded) const {
    core::require(coded.format == format(), core::ExitCode::runtime_failure,
                  "codes of {} can't be stored as {}; report this", facts_of(coded.format).name,
                  facts_of(format()).name);
    bool finite = true;
    with_blocks(format(), [&](auto blocks) {
        if constexpr (is_coded(decltype(blocks)::format)) {
            finite = store_blocks(first, coded.codes.rows(),
                                  [&](index_t row, index_t rows, index_t col, index_t columns, std::byte* block) {
                                      return blocks.store_codes({coded, row, col, rows, columns}, block);
                                  });
        }
    });
    return finite;
}

template <class Sum>
void PackedWeights::widen_row(const kernels::KernelSet& kernels, index_t row, Sum* out) const {
    with_blocks(format_, [&](auto blocks) {
        if constexpr (access_to<Sum>(blocks.format) != Access::none) {
            std::array<Sum, kernel_block> of_block;
            for (index_t b = 0; b < blocks_of(cols_); ++b) {
                blocks.unpack(kernels, block(0, row / kernel_block, b), WeightOrder::rows, of_block.data(),
                              row % kernel_block, 1);
                std::copy_n(of_block.begin(), extent_of_block(cols_, b), out + b * kernel_block);
            }
        } else {
            refuse<Sum>(format_);
        }
    });
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                    \
    template void unpack<Scalar>(const kernels::KernelSet&, const StoredRun&, WeightOrder, const StoredRun&, Scalar*); \
    template BlockRun<Scalar> panel_of<Scalar>(const kernels::KernelSet&, const StoredRun&, core::Buffer<Scalar>&,     \
                                               const StoredRun&);                                                      \
    template bool PackedMatrix::assign_rows<Scalar>(index_t, MatrixView<const Scalar>) const;
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE
template void PackedWeights::widen_row<float>(const kernels::KernelSet&, index_t, float*) const;
template void PackedWeights::widen_row<double>(const kernels::KernelSet&, index_t, double*) const;

}  // namespace moesaic::ops
