// Matrices in blocks of 32 x 32 elements, the unit that kernels work on: a block is contiguous memory, so that reading
// rows or columns of blocks meets neither strided lines nor page conflicts.
#pragma once

#include "core/matrix.hpp"
#include "kernels/micro_kernel.hpp"

#include <algorithm>

namespace moesaic::ops {

using core::index_t;
using core::MatrixView;
using kernels::block_size;

inline constexpr index_t block_elements = block_size * block_size;

/// Blocks that cover `extent` elements.
[[nodiscard]] constexpr index_t blocks_of(index_t extent) {
    return (extent + block_size - 1) / block_size;
}
/// Elements of block `block` along a dimension of `extent` elements.
[[nodiscard]] constexpr index_t extent_of_block(index_t extent, index_t block) {
    return std::min(block_size, extent - block * block_size);
}

/// Elements from a block to the one below it, where a row has `col_blocks` blocks. Some are left free where the blocks
/// of a column would otherwise meet in few sets of the caches: those of a BF16 matrix that is 2048 wide would share 32
/// of the 2048 sets of an L2 cache of 2 MiB.
[[nodiscard]] constexpr index_t row_stride_of(index_t col_blocks) {
    constexpr index_t colliding = 8;
    constexpr index_t gap = block_elements / 4;
    return col_blocks * block_elements + (col_blocks % colliding == 0 ? gap : 0);
}

/// [row blocks][column blocks][32][32], rows `row_stride_of` apart. `resize` keeps the capacity and leaves contents
/// unspecified.
template <class T>
class BlockedMatrix {
public:
    void resize(index_t row_blocks, index_t col_blocks) {
        row_blocks_ = row_blocks;
        col_blocks_ = col_blocks;
        buffer_.reserve(static_cast<std::size_t>(row_blocks * row_stride()));
    }
    [[nodiscard]] index_t row_blocks() const noexcept { return row_blocks_; }
    [[nodiscard]] index_t col_blocks() const noexcept { return col_blocks_; }
    [[nodiscard]] index_t row_stride() const noexcept { return row_stride_of(col_blocks_); }
    [[nodiscard]] std::size_t bytes() const noexcept { return buffer_.capacity() * sizeof(T); }
    [[nodiscard]] T* block(index_t row, index_t col) noexcept { return buffer_.data() + offset(row, col); }
    [[nodiscard]] const T* block(index_t row, index_t col) const noexcept { return buffer_.data() + offset(row, col); }

    /// Copies `plain`, all columns wide, to the blocks from row block `first` on; pads with zeros.
    void assign_rows(index_t first, MatrixView<const T> plain) {
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < blocks_of(plain.rows()); ++i) {
            for (index_t j = 0; j < col_blocks_; ++j) {
                T* out = block(first + i, j);
                const index_t rows = extent_of_block(plain.rows(), i);
                const index_t cols = extent_of_block(plain.cols(), j);
                if (rows < block_size || cols < block_size) {
                    std::fill_n(out, block_elements, static_cast<T>(0.0F));
                }
                for (index_t row = 0; row < rows; ++row) {
                    std::copy_n(plain[i * block_size + row] + j * block_size, cols, out + row * block_size);
                }
            }
        }
    }

private:
    [[nodiscard]] index_t offset(index_t row, index_t col) const noexcept {
        return row * row_stride() + col * block_elements;
    }

    core::Buffer<T> buffer_;
    index_t row_blocks_ = 0;
    index_t col_blocks_ = 0;
};

}  // namespace moesaic::ops
