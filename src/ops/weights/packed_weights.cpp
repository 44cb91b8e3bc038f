#include "ops/weights/packed_weights.hpp"

#include "core/error.hpp"
#include "ops/weights/weight_blocks.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <vector>

namespace moesaic::ops {
namespace {

using core::bf16;
using detail::with_blocks;
using kernels::WeightOrder;

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
    : PackedWeights(without_memory(format, rows, cols)) {
    count_ = count;
    allocate();
}

PackedWeights PackedWeights::without_memory(WeightFormat format, index_t rows, index_t cols) {
    PackedWeights weights;
    weights.format_ = format;
    weights.rows_ = rows;
    weights.cols_ = cols;
    weights.count_ = 1;
    weights.row_stride_ = row_stride_of(format, blocks_of(cols));
    return weights;
}

void PackedWeights::allocate() {
    memory_.reset();
    memory_.reset(static_cast<std::byte*>(core::allocate_lines(bytes())), std::free);
    if (memory_ == nullptr) {
        throw std::bad_alloc();
    }
}

WeightFormat PackedMatrix::format() const noexcept {
    return weights_.format_;
}

index_t PackedMatrix::cols() const noexcept {
    return weights_.cols_;
}

PackedMatrix PackedMatrix::rows(index_t first, index_t count) const {
    return {weights_, number_, first_ + first, count};
}

MatrixView<std::byte> PackedMatrix::blocks() const noexcept {
    return {weights_.memory_.get() + weights_.offset(number_, first_ / kernel_block, 0), blocks_of(rows()),
            blocks_of(cols()) * facts_of(format()).block_bytes, weights_.row_stride_};
}

template <class Store>
bool PackedMatrix::store_blocks(index_t first, index_t rows, const Store& store) const {
    std::byte* begin = weights_.memory_.get() + weights_.offset(number_, (first_ + first) / kernel_block, 0);
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
        } else if constexpr (blocks.format == WeightFormat::int8_rows) {
            std::vector<float> scales(static_cast<std::size_t>(plain.rows()));
            for (index_t row = 0; row < plain.rows(); ++row) {
                scales[static_cast<std::size_t>(row)] = blocks.scale_of(plain[row], plain.cols());
            }
            finite = store_blocks(
                first, plain.rows(), [&](index_t row, index_t rows, index_t col, index_t columns, std::byte* block) {
                    return blocks.store(plain.rows(row, rows).columns(col, columns), block, scales.data() + row);
                });
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
