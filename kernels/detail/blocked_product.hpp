// One product on the calling thread: packs blocks of the operands for the caches and calls a micro-kernel on them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/detail/micro_kernel.hpp"
#include "kernels/gemm.hpp"

namespace moesaic::kernels::detail {

/// Type of the elements that micro-kernels see: BF16 as its 16 bits.
template <class T>
using stored_t = std::conditional_t<std::is_same_v<T, core::bf16>, std::uint16_t, T>;

constexpr index_t round_up(index_t value, index_t step) {
    return (value + step - 1) / step * step;
}

/// Packed panels of one thread; they grow to the block size of the largest kernel and stay.
struct PanelScratch {
    core::Buffer<std::byte> left;
    core::Buffer<std::byte> right;
};
PanelScratch& panel_scratch();

/// Computes `product` by blocks. k is cut into blocks that are added up in order; the left operand of a block is packed
/// once for all columns, the right one panel by panel just before it is used, so that it is read from L1.
template <class T>
class BlockedProduct {
public:
    using Element = stored_t<T>;
    using Sum = accumulator_t<T>;

    BlockedProduct(const MicroKernel<Element, Sum>& kernel, const Gemm<T>& product)
        : kernel_(kernel),
          product_(product),
          a_(reinterpret_cast<const Element*>(product.a)),
          b_(reinterpret_cast<const Element*>(product.b)) {}

    void run() {
        if (product_.m == 0 || product_.n == 0) {
            return;
        }
        if (product_.k == 0) {
            clear_unless_accumulating();
        } else if (product_.m <= kernel_.few_rows) {
            multiply_few_rows();
        } else {
            multiply_blocks();
        }
    }

private:
    /// Vectors of the left panels are padded to whole panels of any kernel.
    static constexpr index_t left_padding = 32;

    [[nodiscard]] Operand<Element> left(index_t row, index_t rows, index_t k, index_t depth) const {
        const index_t offset = product_.transpose_a ? k * product_.lda + row : row * product_.lda + k;
        return {a_ + offset, product_.lda, !product_.transpose_a, rows, depth};
    }
    [[nodiscard]] Operand<Element> right(index_t col, index_t cols, index_t k, index_t depth) const {
        const index_t offset = product_.transpose_b ? col * product_.ldb + k : k * product_.ldb + col;
        return {b_ + offset, product_.ldb, product_.transpose_b, cols, depth};
    }
    [[nodiscard]] ResultBlock<Sum> result(index_t row, index_t rows, index_t col, index_t cols, index_t k) const {
        return {product_.c + row * product_.ldc + col, product_.ldc, rows, cols, product_.alpha,
                product_.accumulate || k > 0};
    }

    void clear_unless_accumulating() {
        if (!product_.accumulate) {
            for (index_t row = 0; row < product_.m; ++row) {
                std::fill_n(product_.c + row * product_.ldc, product_.n, Sum{0});
            }
        }
    }

    /// Rows of the left operand that are packed at once for a block of `depth` elements of k.
    [[nodiscard]] index_t rows_of_block(index_t depth) const {
        const auto row_bytes = static_cast<index_t>(kernel_.packed_size) * round_up(depth, kernel_.depth_step);
        const index_t fitting = static_cast<index_t>(kernel_.left_block_bytes) / row_bytes;
        const index_t whole_panels = std::max(left_padding, fitting / left_padding * left_padding);
        return std::min(product_.m, whole_panels);
    }
    [[nodiscard]] std::size_t panel_bytes(index_t vectors, index_t depth) const {
        return static_cast<std::size_t>(vectors * round_up(depth, kernel_.depth_step)) * kernel_.packed_size;
    }

    /// Columns of the right operand that are packed together. Where it is stored by rows, several panels, so that
    /// longer pieces of each row are read at once.
    [[nodiscard]] index_t strip_cols() const {
        return product_.transpose_b ? kernel_.cols : panels_per_strip * kernel_.cols;
    }
    static constexpr index_t panels_per_strip = 4;

    void multiply_blocks() {
        const index_t longest = std::min(product_.k, kernel_.block_depth);
        const index_t panel_depth = std::min(longest, kernel_.panel_depth);
        const index_t rows = rows_of_block(longest);
        PanelScratch& scratch = panel_scratch();
        left_panels_ = scratch.left.reserve(panel_bytes(round_up(rows, left_padding), longest));
        right_panels_ = scratch.right.reserve(panel_bytes(strip_cols(), panel_depth));
        if (kernel_.begin != nullptr) {
            kernel_.begin();
        }
        for (index_t k = 0; k < product_.k; k += longest) {
            const index_t depth = std::min(longest, product_.k - k);
            for (index_t row = 0; row < product_.m; row += rows) {
                multiply_block(row, std::min(rows, product_.m - row), k, depth);
            }
        }
        if (kernel_.end != nullptr) {
            kernel_.end();
        }
    }

    /// All columns of `rows` rows, for `depth` elements of k.
    void multiply_block(index_t row, index_t rows, index_t k, index_t depth) {
        const std::size_t slice_bytes = panel_bytes(round_up(rows, left_padding), kernel_.panel_depth);
        std::byte* slice = left_panels_;
        for (index_t kk = 0; kk < depth; kk += kernel_.panel_depth, slice += slice_bytes) {
            kernel_.pack_left(slice, left(row, rows, k + kk, std::min(kernel_.panel_depth, depth - kk)));
        }
        const index_t strip = strip_cols();
        for (index_t col = 0; col < product_.n; col += strip) {
            slice = left_panels_;
            for (index_t kk = 0; kk < depth; kk += kernel_.panel_depth, slice += slice_bytes) {
                multiply_strip(slice, row, rows, col, std::min(strip, product_.n - col), k + kk,
                               std::min(kernel_.panel_depth, depth - kk));
            }
        }
    }

    /// `cols` columns of `rows` rows, for `depth` elements of k of which the left operand is packed in `left_panels`.
    void multiply_strip(const std::byte* left_panels, index_t row, index_t rows, index_t col, index_t cols, index_t k,
                        index_t depth) {
        kernel_.pack_right(right_panels_, right(col, cols, k, depth));
        for (index_t j = 0; j < cols; j += kernel_.cols) {
            for (index_t i = 0; i < rows; i += kernel_.rows) {
                kernel_.multiply(
                    depth, left_panels + panel_bytes(i, depth), right_panels_ + panel_bytes(j, depth),
                    result(row + i, std::min(kernel_.rows, rows - i), col + j, std::min(kernel_.cols, cols - j), k));
            }
        }
    }

    void multiply_few_rows() {
        const index_t longest = std::min(product_.k, few_rows_depth);
        auto& buffer = panel_scratch().left;
        auto* rows =
            reinterpret_cast<Sum*>(buffer.reserve(static_cast<std::size_t>(product_.m * longest) * sizeof(Sum)));
        for (index_t k = 0; k < product_.k; k += longest) {
            const index_t depth = std::min(longest, product_.k - k);
            for (index_t row = 0; row < product_.m; ++row) {
                for (index_t kk = 0; kk < depth; ++kk) {
                    const index_t offset =
                        product_.transpose_a ? (k + kk) * product_.lda + row : row * product_.lda + k + kk;
                    rows[row * depth + kk] = core::widen(product_.a[offset]);
                }
            }
            kernel_.multiply_few_rows(depth, rows, right(0, product_.n, k, depth),
                                      result(0, product_.m, 0, product_.n, k));
        }
    }
    static constexpr index_t few_rows_depth = 4096;

    const MicroKernel<Element, Sum>& kernel_;
    const Gemm<T>& product_;
    const Element* a_;
    const Element* b_;
    std::byte* left_panels_ = nullptr;
    std::byte* right_panels_ = nullptr;
};

}  // namespace moesaic::kernels::detail
