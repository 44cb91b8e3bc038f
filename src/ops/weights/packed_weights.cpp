#include "ops/weights/packed_weights.hpp"

#include "core/error.hpp"
#include "core/finite.hpp"

#include <algorithm>

namespace moesaic::ops {
namespace {

using core::bf16;

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
    /// Writes [32][32] elements.
    static void unpack(const kernels::KernelSet& kernels, const std::byte* block, accumulator_t<E>* out) {
        kernels.elementwise<E>().widen(block_elements, reinterpret_cast<const E*>(block), out);
    }
    /// Writes the first `count` elements of a row.
    static void widen_row(const kernels::KernelSet& kernels, const std::byte* block, index_t row, index_t count,
                          accumulator_t<E>* out) {
        kernels.elementwise<E>().widen(count, reinterpret_cast<const E*>(block) + row * kernel_block, out);
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
BlockRun<Scalar> panel_of(const kernels::KernelSet& kernels, const StoredRun& run, core::Buffer<Scalar>& scratch) {
    if (access_to<Scalar>(run.format) == Access::in_place) {
        return {reinterpret_cast<const Scalar*>(run.first), run.step / static_cast<index_t>(sizeof(Scalar)),
                run.blocks};
    }
    Scalar* out = scratch.reserve(static_cast<std::size_t>(run.blocks * block_elements));
    with_blocks(run.format, [&](auto blocks) {
        if constexpr (access_to<Scalar>(blocks.format) == Access::unpacked) {
            for (index_t b = 0; b < run.blocks; ++b) {
                blocks.unpack(kernels, run.block(b), out + b * block_elements);
            }
        } else {
            refuse<Scalar>(run.format);
        }
    });
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
            for (index_t b = 0; b < blocks_of(cols_); ++b) {
                blocks.widen_row(kernels, block(0, row / kernel_block, b), row % kernel_block,
                                 extent_of_block(cols_, b), out + b * kernel_block);
            }
        } else {
            refuse<Sum>(format_);
        }
    });
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                 \
    template BlockRun<Scalar> panel_of<Scalar>(const kernels::KernelSet&, const StoredRun&, core::Buffer<Scalar>&); \
    template bool PackedMatrix::assign_rows<Scalar>(index_t, MatrixView<const Scalar>) const;
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE
template void PackedWeights::widen_row<float>(const kernels::KernelSet&, index_t, float*) const;
template void PackedWeights::widen_row<double>(const kernels::KernelSet&, index_t, double*) const;

}  // namespace moesaic::ops
