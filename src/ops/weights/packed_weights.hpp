// Frozen weights in memory: a format, a shape, and bytes in blocks. Nothing else knows how weights are stored: sources
// fill them by rows, kernels get panels of them, and whoever is between sees neither elements nor their type.
//
// A format is a line in weight_format.hpp and a struct in weight_codecs.hpp that rounds rows of plain elements and
// makes codes numbers. Quantised ones have a block's 32 scales behind its codes: a group of 128 along k repeats its
// scale in the four blocks that it covers. A source that reads a rank's slice knows where in the whole tensor it begins
// (model::TensorSlice), so it finds the scales of a group that the slice cuts; a slice must begin at a multiple of 32,
// lest a row of a block had two scales.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/blocks.hpp"
#include "ops/weights/coded_rows.hpp"
#include "ops/weights/weight_format.hpp"

#include <cstddef>
#include <memory>
#include <utility>

namespace moesaic::ops {

using core::accumulator_t;

/// Stored blocks along k of one strip of weights, of whatever format.
struct StoredRun {
    WeightFormat format = {};
    const std::byte* first = nullptr;
    index_t step = 0;  ///< bytes from one block to the next
    index_t blocks = 0;

    [[nodiscard]] const std::byte* block(index_t b) const { return first + b * step; }
    [[nodiscard]] StoredRun part(index_t begin, index_t count) const { return {format, block(begin), step, count}; }
};

/// Asks for the lines of block `b`, to be in the L2 cache when they are needed.
inline void ask_for_block(const StoredRun& run, index_t b) {
    for (index_t line = 0; line < lines_of_block(run.format); ++line) {
        __builtin_prefetch(run.block(b) + line * line_bytes, 0, 2);
    }
}

/// Writes the elements of a run to out [blocks][32 x 32], for a format that kernels for Scalar don't read in place, and
/// asks for the blocks of `next` on the side. Orders other than rows are for BF16.
template <class Scalar>
void unpack(const kernels::KernelSet& kernels, const StoredRun& run, kernels::WeightOrder order, const StoredRun& next,
            Scalar* out);

/// Hands stored weights to kernels for activations of type Scalar: the memory itself where they read the format in
/// place, else its elements as Scalar in `scratch`.
template <class Scalar>
[[nodiscard]] BlockRun<Scalar> panel_of(const kernels::KernelSet& kernels, const StoredRun& run,
                                        core::Buffer<Scalar>& scratch, const StoredRun& next = {});

class PackedWeights;

/// One matrix of packed weights, or some rows of it, for sources to fill.
class PackedMatrix {
public:
    [[nodiscard]] WeightFormat format() const noexcept;
    [[nodiscard]] index_t rows() const noexcept { return rows_; }
    [[nodiscard]] index_t cols() const noexcept;
    /// The `count` rows from `first` on, which is a multiple of 32, as are they together unless they are the last ones.
    [[nodiscard]] PackedMatrix rows(index_t first, index_t count) const;
    /// Stores rows [first, first + plain.rows()), rounded to the format; `first` is a multiple of 32, `plain` all
    /// columns wide. Throws if kernels for type S have no access to the format. False if a stored value is not finite.
    template <class S>
    bool assign_rows(index_t first, MatrixView<const S> plain) const;
    /// Stores rows of codes of this format as they are, all columns wide. False if a code or a scale is no finite
    /// number.
    bool assign_codes(index_t first, const CodedRows& coded) const;
    /// The stored blocks themselves: rows of blocks, side by side.
    [[nodiscard]] MatrixView<std::byte> blocks() const noexcept;

private:
    friend class PackedWeights;
    PackedMatrix(PackedWeights& weights, index_t number, index_t first, index_t rows)
        : weights_(weights), number_(number), first_(first), rows_(rows) {}

    /// Calls store(row, rows, column, columns, block) for the blocks of `rows` rows from `first` on; false if one did.
    template <class Store>
    bool store_blocks(index_t first, index_t rows, const Store& store) const;

    PackedWeights& weights_;
    index_t number_;
    index_t first_;  ///< row of the whole matrix
    index_t rows_;
};

/// Matrices of one shape, one below the other: [matrix][row blocks][column blocks][block], rows and columns padded with
/// zeros to whole blocks.
class PackedWeights {
public:
    PackedWeights() = default;
    /// `count` matrices W [rows, cols] with unspecified contents, in memory of their own.
    PackedWeights(WeightFormat format, index_t rows, index_t cols, index_t count = 1);
    /// The shape of a matrix, which gets its memory by `allocate` or `use` before anything else is done with it.
    [[nodiscard]] static PackedWeights without_memory(WeightFormat format, index_t rows, index_t cols);
    PackedWeights(PackedWeights&&) noexcept = default;
    PackedWeights& operator=(PackedWeights&&) noexcept = default;
    PackedWeights(const PackedWeights&) = delete;
    PackedWeights& operator=(const PackedWeights&) = delete;

    /// Gives the weights memory of their own.
    void allocate();
    /// Puts them into memory of somebody else, at least `bytes()` bytes from the beginning of a cache line on, and
    /// keeps a share of it.
    void use(std::shared_ptr<std::byte> memory) noexcept { memory_ = std::move(memory); }

    [[nodiscard]] WeightFormat format() const noexcept { return format_; }
    [[nodiscard]] index_t rows() const noexcept { return rows_; }
    [[nodiscard]] index_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return static_cast<std::size_t>(count_ * blocks_of(rows_) * row_stride_);
    }
    /// The same of a matrix that need not exist.
    [[nodiscard]] static constexpr index_t bytes_of(WeightFormat format, index_t rows, index_t cols) {
        return blocks_of(rows) * row_stride_of(format, blocks_of(cols));
    }

    [[nodiscard]] PackedMatrix matrix(index_t number = 0) { return {*this, number, 0, rows_}; }

    /// `count` blocks side by side, from column block `first` on, in row `row` of the blocks of a matrix: a strip of
    /// rows of W, whose columns are k.
    [[nodiscard]] StoredRun row_run(index_t matrix, index_t row, index_t first, index_t count) const {
        return {format_, block(matrix, row, first), facts_of(format_).block_bytes, count};
    }
    /// `count` blocks one below the other, from row block `first` on, in a column of blocks: a strip of columns of W,
    /// whose rows are k.
    [[nodiscard]] StoredRun column_run(index_t matrix, index_t column, index_t first, index_t count) const {
        return {format_, block(matrix, first, column), row_stride_, count};
    }
    /// The scales of 32 rows, from row block `row` on, of a format in which whole rows have one (INT8 by rows).
    [[nodiscard]] const float* scales_of_rows(index_t matrix, index_t row) const {
        return reinterpret_cast<const float*>(block(matrix, row, 0) + block_elements);
    }
    /// Writes row `row` [cols] of the first matrix to `out`.
    template <class Sum>
    void widen_row(const kernels::KernelSet& kernels, index_t row, Sum* out) const;

private:
    friend class PackedMatrix;

    /// Bytes from a block to the one below it, where a row has `col_blocks` blocks. Some are left free where the blocks
    /// of a column would otherwise meet in few sets of the caches: those of a BF16 matrix that is 2048 wide would share
    /// 32 of the 2048 sets of an L2 cache of 2 MiB.
    [[nodiscard]] static constexpr index_t row_stride_of(WeightFormat format, index_t col_blocks) {
        constexpr index_t colliding = 8;
        const index_t block_bytes = facts_of(format).block_bytes;
        const index_t gap = (block_bytes / 4 + line_bytes - 1) / line_bytes * line_bytes;
        return col_blocks * block_bytes + (col_blocks % colliding == 0 ? gap : 0);
    }
    [[nodiscard]] index_t offset(index_t matrix, index_t row, index_t col) const {
        return (matrix * blocks_of(rows_) + row) * row_stride_ + col * facts_of(format_).block_bytes;
    }
    [[nodiscard]] const std::byte* block(index_t matrix, index_t row, index_t col) const {
        return memory_.get() + offset(matrix, row, col);
    }

    WeightFormat format_ = {};
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t count_ = 0;
    index_t row_stride_ = 0;  ///< bytes
    std::shared_ptr<std::byte> memory_;
};

}  // namespace moesaic::ops
