// One product on the calling thread: packs blocks of the operands for the caches and calls a micro-kernel on them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/micro_kernel.hpp"

namespace moesaic::kernels::detail {

/// Packed strips of one thread; they grow to the block size of the largest kernel and stay.
struct PackingScratch {
    core::Buffer<std::byte> left;
    core::Buffer<std::byte> right;
};
inline PackingScratch& packing_scratch() {
    thread_local PackingScratch scratch;
    return scratch;
}

/// Computes `product` by blocks. k is cut into panels that are added up in order; the left operand of a block is packed
/// once for all columns, the right one strip by strip just before it is used, so that it is read from the cache.
template <class Scalar>
class BlockedProduct {
public:
    using Element = stored_t<Scalar>;
    using Sum = accumulator_t<Scalar>;

    BlockedProduct(const micro_kernel_t<Scalar>& kernel, const Gemm<Scalar>& product)
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
    [[nodiscard]] Operand<Element> left(index_t row, index_t rows, index_t k, index_t depth) const {
        const index_t offset = product_.transpose_a ? k * product_.lda + row : row * product_.lda + k;
        return {a_ + offset, product_.lda, !product_.transpose_a,
                rows,        depth,        kernel_block * (product_.transpose_a ? product_.lda : 1)};
    }
    [[nodiscard]] Operand<Element> right(index_t col, index_t cols, index_t k, index_t depth) const {
        const index_t offset = product_.transpose_b ? col * product_.ldb + k : k * product_.ldb + col;
        return {b_ + offset, product_.ldb, product_.transpose_b,
                cols,        depth,        kernel_block * (product_.transpose_b ? 1 : product_.ldb)};
    }

    void clear_unless_accumulating() {
        if (!product_.accumulate) {
            for (index_t row = 0; row < product_.m; ++row) {
                std::fill_n(product_.c + row * product_.ldc, product_.n, Sum{0});
            }
        }
    }

    [[nodiscard]] static index_t blocks(index_t extent) { return (extent + kernel_block - 1) / kernel_block; }
    /// Packed blocks of a strip as long as a panel.
    [[nodiscard]] index_t blocks_of_strip() const {
        return (panel_depth_ + kernel_.block_depth - 1) / kernel_.block_depth;
    }
    [[nodiscard]] std::byte* left_strip(index_t row) const {
        return left_strips_ + static_cast<std::size_t>(row / kernel_block * blocks_of_strip()) * kernel_.left_bytes;
    }
    [[nodiscard]] std::byte* right_strip(index_t col) const {
        return right_strips_ + static_cast<std::size_t>(col / kernel_block * blocks_of_strip()) * kernel_.right_bytes;
    }

    /// Where the right operand is stored by rows, several strips are packed together: longer pieces of each row.
    static constexpr index_t strips_together = 4;

    void multiply_blocks() {
        panel_depth_ = std::min(product_.k, kernel_.panel_depth);
        const std::size_t strip_bytes = static_cast<std::size_t>(blocks_of_strip()) * kernel_.left_bytes;
        const auto strips = static_cast<index_t>(std::max<std::size_t>(1, kernel_.left_block_bytes / strip_bytes));
        const index_t rows = std::min(product_.m, strips * kernel_block);
        PackingScratch& scratch = packing_scratch();
        left_strips_ = scratch.left.reserve(static_cast<std::size_t>(blocks(rows)) * strip_bytes);
        right_strips_ =
            scratch.right.reserve(static_cast<std::size_t>(strips_together * blocks_of_strip()) * kernel_.right_bytes);
        const ProcessorScope scope(kernel_.state);
        for (index_t k = 0; k < product_.k; k += panel_depth_) {
            const index_t depth = std::min(panel_depth_, product_.k - k);
            for (index_t row = 0; row < product_.m; row += rows) {
                multiply_block(row, std::min(rows, product_.m - row), k, depth);
            }
        }
    }

    /// All columns of `rows` rows, for `depth` elements of k.
    void multiply_block(index_t row, index_t rows, index_t k, index_t depth) {
        for (index_t i = 0; i < rows; i += kernel_block) {
            kernel_.pack_left(left_strip(i), left(row + i, std::min(kernel_block, rows - i), k, depth));
        }
        const index_t together = kernel_block * (product_.transpose_b ? 1 : strips_together);
        for (index_t col = 0; col < product_.n; col += together) {
            const index_t cols = std::min(together, product_.n - col);
            for (index_t j = 0; j < cols; j += kernel_block) {
                kernel_.pack_right(right_strip(j), right(col + j, std::min(kernel_block, cols - j), k, depth));
            }
            for (index_t j = 0; j < cols; j += kernel_block) {
                for (index_t i = 0; i < rows; i += kernel_block) {
                    multiply_strips(row, i, std::min(kernel_block, rows - i), col, j, std::min(kernel_block, cols - j),
                                    k, depth);
                }
            }
        }
    }

    /// One block of C: in place if it is whole, otherwise by way of a buffer.
    void multiply_strips(index_t row, index_t i, index_t rows, index_t col, index_t j, index_t cols, index_t k,
                         index_t depth) {
        const bool accumulate = product_.accumulate || k > 0;
        const bool in_place = rows == kernel_block && cols == kernel_block && product_.alpha == Sum{1};
        Sum* c = product_.c + (row + i) * product_.ldc + col + j;
        alignas(64) Sum sums[kernel_block * kernel_block];
        kernel_.multiply({rows,
                          cols,
                          {left_strip(i), right_strip(j), depth},
                          in_place ? c : sums,
                          in_place ? product_.ldc : kernel_block,
                          in_place && accumulate});
        if (in_place) {
            return;
        }
        for (index_t r = 0; r < rows; ++r, c += product_.ldc) {
            for (index_t s = 0; s < cols; ++s) {
                const Sum value = product_.alpha * sums[r * kernel_block + s];
                c[s] = accumulate ? c[s] + value : value;
            }
        }
    }

    void multiply_few_rows() {
        const index_t longest = std::min(product_.k, few_rows_depth);
        auto& buffer = packing_scratch().left;
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
            kernel_.multiply_few_rows(
                rows, right(0, product_.n, k, depth),
                {product_.c, product_.ldc, product_.m, product_.n, product_.alpha, product_.accumulate || k > 0});
        }
    }
    static constexpr index_t few_rows_depth = 4096;

    const micro_kernel_t<Scalar>& kernel_;
    const Gemm<Scalar>& product_;
    const Element* a_;
    const Element* b_;
    index_t panel_depth_ = 0;
    std::byte* left_strips_ = nullptr;
    std::byte* right_strips_ = nullptr;
};

}  // namespace moesaic::kernels::detail
