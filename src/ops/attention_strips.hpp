// Packed operands of attention. Blocks and strips are those of kernels/micro_kernel.hpp: 32 rows, columns or elements
// of k. Rows of a sequence are counted from its start, so that blocks of queries and of keys have the same boundaries.
#pragma once

#include "core/matrix.hpp"
#include "ops/attention.hpp"
#include "ops/strip_products.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace moesaic::ops {

/// Packing and products of matrix views.
template <class Scalar>
class AttentionStrips {
public:
    using Sum = accumulator_t<Scalar>;
    using TileState = typename StripProducts<Scalar>::TileState;

    explicit AttentionStrips(const kernels::KernelSet& kernels) : products_(kernels) {}
    [[nodiscard]] const StripProducts<Scalar>& products() const { return products_; }

    /// Bytes of strips of `count` vectors of length k.
    [[nodiscard]] index_t left_bytes(index_t count, index_t k) const {
        return blocks_of(count) * blocks_of(k) * products_.left_bytes();
    }
    [[nodiscard]] index_t right_bytes(index_t count, index_t k) const {
        return blocks_of(count) * blocks_of(k) * products_.right_bytes();
    }

    /// The rows of `in`, at most 32, are vectors along k: one strip. So are the columns in the functions below.
    void pack_left_rows(MatrixView<const Scalar> in, std::byte* strip) const {
        products_.pack_left(strip, products_.rows(in.data(), in.stride(), in.rows(), in.cols()));
    }
    void pack_left_columns(MatrixView<const Scalar> in, std::byte* strip) const {
        products_.pack_left(strip, products_.columns(in.data(), in.stride(), in.cols(), in.rows()));
    }
    void pack_right_rows(MatrixView<const Scalar> in, std::byte* strip) const {
        products_.pack_right(strip, products_.rows(in.data(), in.stride(), in.rows(), in.cols()));
    }
    /// Any number of columns: strips of 32 that have `strip_bytes` each.
    void pack_right_columns(MatrixView<const Scalar> in, std::byte* strips, index_t strip_bytes) const {
        for (index_t s = 0; s < blocks_of(in.cols()); ++s) {
            products_.pack_right(strips + s * strip_bytes, products_.columns(in.data() + s * kernel_block, in.stride(),
                                                                             extent_of_block(in.cols(), s), in.rows()));
        }
    }

    /// C[rows, cols] = left [rows, k] * right [k, cols], added to C if `accumulate`: one left strip, at most 32 rows,
    /// and right strips that lie `strip_bytes` apart. C has room for whole blocks.
    void multiply(index_t k, const std::byte* left, const std::byte* right, index_t strip_bytes, MatrixView<Sum> c,
                  bool accumulate) const {
        for (index_t s = 0; s < blocks_of(c.cols()); ++s) {
            products_.strip_by_strip(left, c.rows(), right + s * strip_bytes, extent_of_block(c.cols(), s), k,
                                     c.data() + s * kernel_block, c.stride(), accumulate);
        }
    }

    /// The same for operands in two parts, of which the second may be missing in both: the product of two second
    /// parts is left out, which is smaller than what rounding took from either.
    struct Parts {
        const std::byte* high;
        const std::byte* low;
    };
    void multiply(index_t k, const Parts& left, const Parts& right, index_t strip_bytes, MatrixView<Sum> c,
                  bool accumulate) const {
        multiply(k, left.high, right.high, strip_bytes, c, accumulate);
        if (left.low != nullptr) {
            multiply(k, left.high, right.low, strip_bytes, c, true);
            multiply(k, left.low, right.high, strip_bytes, c, true);
        }
    }

private:
    StripProducts<Scalar> products_;
};

/// Heads of keys or values [T, kv_heads * size], packed once as right operands for all queries. The columns of a
/// product are either the rows (`along` == size, so k is the size of a head) or the elements of a head (`along` ==
/// rows, so k runs over rows).
enum class Along { size, rows };

template <class Scalar>
class PackedHeads {
public:
    PackedHeads(const AttentionStrips<Scalar>& strips, index_t kv_heads, std::span<const index_t> offsets,
                MatrixView<const Scalar> heads, Along along)
        : strips_(strips), along_(along), size_(heads.cols() / kv_heads), kv_heads_(kv_heads) {
        struct Block {
            std::size_t sequence;
            index_t row;
        };
        std::vector<Block> blocks;
        index_t bytes = 0;
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
            const index_t rows = offsets[s + 1] - offsets[s];
            sequences_.push_back({rows, bytes});
            bytes += kv_heads_ * strips.right_bytes(rows, size_);
            for (index_t row = 0; row < rows; row += kernel_block) {
                blocks.push_back({s, row});
            }
        }
        packed_.resize(1, bytes);
        const auto count = static_cast<index_t>(blocks.size());
#pragma omp parallel for schedule(static)
        for (index_t b = 0; b < count; ++b) {
            const auto [sequence, row] = blocks[static_cast<std::size_t>(b)];
            const index_t rows = std::min(kernel_block, sequences_[sequence].rows - row);
            for (index_t head = 0; head < kv_heads_; ++head) {
                const auto in = heads.rows(offsets[sequence] + row, rows).columns(head * size_, size_);
                std::byte* const target = packed_.data() + offset(sequence, head, row);
                if (along_ == Along::size) {
                    strips.pack_right_rows(in, target);
                } else {
                    strips.pack_right_columns(in, target, strip_bytes(sequence));
                }
            }
        }
    }

    /// Right strips for products with the rows from `row` on, a multiple of 32.
    [[nodiscard]] const std::byte* at(std::size_t sequence, index_t head, index_t row) const {
        return packed_.data() + offset(sequence, head, row);
    }
    /// Distance of the strips of two neighbouring groups of 32 columns of a product.
    [[nodiscard]] index_t strip_bytes(std::size_t sequence) const {
        return strips_.right_bytes(kernel_block, along_ == Along::size ? size_ : sequences_[sequence].rows);
    }

private:
    struct Sequence {
        index_t rows;
        index_t begin;  ///< bytes
    };

    [[nodiscard]] index_t offset(std::size_t sequence, index_t head, index_t row) const {
        const Sequence& all = sequences_[sequence];
        const index_t within = strips_.right_bytes(row, along_ == Along::size ? size_ : kernel_block);
        return all.begin + head * strips_.right_bytes(all.rows, size_) + within;
    }

    const AttentionStrips<Scalar>& strips_;
    Along along_;
    index_t size_;
    index_t kv_heads_;
    std::vector<Sequence> sequences_;
    core::Matrix<std::byte> packed_;
};

/// The first `rows` x `cols` elements of a scratch matrix.
template <class U>
[[nodiscard]] MatrixView<U> top_left(core::Matrix<U>& matrix, index_t rows, index_t cols) {
    return {matrix.data(), rows, cols, matrix.cols()};
}

}  // namespace moesaic::ops
