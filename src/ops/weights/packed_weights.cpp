#include "ops/weights/packed_weights.hpp"

#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/small_floats.hpp"

#include <algorithm>
#include <array>
#include <cmath>

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

/// Blocks of codes [32][32] and their FP32 scales, one for each row. Codec: Code, a whole byte; the largest number that
/// it expresses; encode(value / scale); decode(kernels, rows, codes, scales, order, out).
template <class Codec>
struct ByteBlocks {
    static constexpr WeightFormat format = Codec::format;
    using Code = typename Codec::Code;

    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block) {
        Code* codes = reinterpret_cast<Code*>(block);
        float* scales = scales_of(block);
        std::fill_n(codes, block_elements, Code{});
        std::fill_n(scales, kernel_block, 0.0F);
        bool finite = true;
        for (index_t row = 0; row < plain.rows(); ++row) {
            const float scale = largest_magnitude(plain[row], plain.cols()) / Codec::largest;
            finite = finite && std::isfinite(scale);
            scales[row] = scale;
            for (index_t col = 0; col < plain.cols() && scale > 0; ++col) {
                codes[row * kernel_block + col] = Codec::encode(static_cast<float>(plain(row, col)) / scale);
            }
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
    template <class Kernels, class Sum, class Scalar>
    static void decode(const Kernels& kernels, index_t rows, const Code* codes, const Sum* scales, WeightOrder order,
                       Scalar* out) {
        kernels.decode_integers(rows, codes, scales, nullptr, order, out);
    }
};

/// Blocks of 4-bit codes as ElementwiseTable::decode_nibbles takes them, and a scale for each row. Codec: Scale, which
/// is stored; scale_for(largest magnitude of a row); encode(value / scale); widen(Scale); values of codes.
template <class Codec>
struct NibbleBlocks {
    static constexpr WeightFormat format = Codec::format;
    using Scale = typename Codec::Scale;

    template <class S>
    static bool store(MatrixView<const S> plain, std::byte* block) {
        auto* codes = reinterpret_cast<std::uint8_t*>(block);
        Scale* scales = scales_of(block);
        std::fill_n(block, facts_of(format).block_bytes, std::byte{});
        bool finite = true;
        for (index_t row = 0; row < plain.rows(); ++row, codes += row_bytes) {
            const float largest = largest_magnitude(plain[row], plain.cols());
            finite = finite && std::isfinite(largest);
            scales[row] = Codec::scale_for(finite ? largest : 0.0F);
            const float scale = Codec::widen(scales[row]);
            for (index_t col = 0; col < kernel_block; ++col) {
                const float value = col < plain.cols() ? static_cast<float>(plain(row, col)) : 0.0F;
                const auto code = static_cast<unsigned>(Codec::encode(scale > 0 ? value / scale : 0.0F));
                codes[col % row_bytes] |= static_cast<std::uint8_t>(code << (col < row_bytes ? 0U : 4U));
            }
        }
        return finite;
    }
    template <class Scalar>
    static void unpack(const kernels::KernelSet& kernels, const std::byte* block, WeightOrder order, Scalar* out,
                       index_t first_row = 0, index_t rows = kernel_block) {
        using Sum = accumulator_t<Scalar>;
        std::array<Sum, kernel_block> scales;
        std::transform(scales_of(block) + first_row, scales_of(block) + first_row + rows, scales.begin(),
                       [](Scale scale) { return static_cast<Sum>(Codec::widen(scale)); });
        static constexpr std::array<Sum, 16> values = Codec::template values<Sum>();
        constexpr index_t sides = 1;
        kernels.elementwise<Scalar>().decode_nibbles(
            rows, reinterpret_cast<const std::uint8_t*>(block) + first_row * row_bytes, values.data(), sides,
            scales.data(), nullptr, order, out);
    }

private:
    static constexpr index_t row_bytes = kernel_block / 2;
    static Scale* scales_of(std::byte* block) { return reinterpret_cast<Scale*>(block + block_elements / 2); }
    static const Scale* scales_of(const std::byte* block) {
        return reinterpret_cast<const Scale*>(block + block_elements / 2);
    }
};

/// Codes 0 to 15 are -8 to 7.
struct Int4Codec {
    static constexpr WeightFormat format = WeightFormat::int4;
    using Scale = bf16;
    static constexpr int offset = 8;
    static Scale scale_for(float largest) { return Scale(largest / 7); }
    static float widen(Scale scale) { return static_cast<float>(scale); }
    static int encode(float value) { return std::clamp(static_cast<int>(std::nearbyint(value)), -8, 7) + offset; }
    template <class Sum>
    static constexpr std::array<Sum, 16> values() {
        std::array<Sum, 16> all{};
        for (int code = 0; code < 16; ++code) {
            all[static_cast<std::size_t>(code)] = static_cast<Sum>(code - offset);
        }
        return all;
    }
};

/// Microscaling FP4 of the OCP specification 1.0: E2M1 with a power of two for 32 elements.
struct Mxfp4Codec {
    static constexpr WeightFormat format = WeightFormat::mxfp4;
    using Scale = std::uint8_t;
    static constexpr int bias = 127;
    static constexpr int largest_exponent = 2;  // of E2M1
    static Scale scale_for(float largest) {
        return static_cast<Scale>(largest > 0 ? std::clamp(std::ilogb(largest) - largest_exponent + bias, 0, 254) : 0);
    }
    static float widen(Scale scale) { return core::widen_e8m0(scale); }
    static int encode(float value) {
        const float magnitude = std::min(std::abs(value), core::largest_e2m1);
        int nearest = 0;
        for (int code = 1; code < 8; ++code) {
            const float distance = std::abs(core::values_of_e2m1[static_cast<std::size_t>(code)] - magnitude);
            const float least = std::abs(core::values_of_e2m1[static_cast<std::size_t>(nearest)] - magnitude);
            const bool ties_to_even = distance == least && code % 2 == 0;
            nearest = distance < least || ties_to_even ? code : nearest;
        }
        return nearest + (std::signbit(value) ? 8 : 0);
    }
    template <class Sum>
    static constexpr std::array<Sum, 16> values() {
        std::array<Sum, 16> all{};
        std::copy(core::values_of_e2m1.begin(), core::values_of_e2m1.end(), all.begin());
        return all;
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
        case WeightFormat::mxfp4:
            return body(NibbleBlocks<Mxfp4Codec>());
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

template <class S>
bool PackedMatrix::assign_rows(index_t first, MatrixView<const S> plain) const {
    bool finite = true;
    with_blocks(format(), [&](auto blocks) {
        if constexpr (access_to<S>(blocks.format) == Access::none) {
            refuse<S>(format());
        } else {
            std::byte* begin = weights_.buffer_.data() + weights_.offset(number_, first / kernel_block, 0);
            const index_t block_bytes = facts_of(format()).block_bytes;
            const index_t row_stride = weights_.row_stride_;
#pragma omp parallel for schedule(static) reduction(&& : finite)
            for (index_t i = 0; i < blocks_of(plain.rows()); ++i) {
                const MatrixView<const S> strip = plain.rows(i * kernel_block, extent_of_block(plain.rows(), i));
                for (index_t j = 0; j < blocks_of(plain.cols()); ++j) {
                    const bool stored = blocks.store(strip.columns(j * kernel_block, extent_of_block(plain.cols(), j)),
                                                     begin + i * row_stride + j * block_bytes);
                    finite = finite && stored;
                }
            }
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
