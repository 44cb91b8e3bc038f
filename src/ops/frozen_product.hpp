// A frozen weight matrix, stored once in blocks, and its products with token rows in both directions.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/gemm.hpp"
#include "ops/blocks.hpp"
#include "ops/strip_products.hpp"
#include "ops/weights/weight_stream.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::Matrix;
using core::MatrixView;

/// W [N, K].
template <class T>
class FrozenMatrix {
public:
    FrozenMatrix() = default;
    FrozenMatrix(index_t rows, index_t cols) : rows_(rows), cols_(cols) {
        blocks_.resize(blocks_of(rows), blocks_of(cols));
    }

    /// Copies rows [first, first + rows) of W; `first` is a multiple of 32.
    void assign_rows(index_t first, MatrixView<const T> plain) {  // [rows, K]
        blocks_.assign_rows(first / block_size, plain);
    }

    [[nodiscard]] index_t rows() const noexcept { return rows_; }
    [[nodiscard]] index_t cols() const noexcept { return cols_; }
    [[nodiscard]] const BlockedMatrix<T>& blocks() const noexcept { return blocks_; }
    /// Writes row `row` [K] to `out`.
    void widen_row(const kernels::ElementwiseKernels<T>& kernels, index_t row, accumulator_t<T>* out) const;

private:
    BlockedMatrix<T> blocks_;
    index_t rows_ = 0;
    index_t cols_ = 0;
};

enum class Direction : std::uint8_t { forward, backward };

/// Forward: y [M, N] = x W^T for x [M, K]. Backward: y [M, K] = x W for x [M, N], a gradient.
template <class T>
struct FrozenProduct {
    const FrozenMatrix<T>& weight;
    Direction direction = Direction::forward;
    MatrixView<const T> x;
    MatrixView<accumulator_t<T>> y;
    bool accumulate = false;  ///< adds to y instead of overwriting it
    MatrixView<const T> low;  ///< forward: [M, K], what rounding took from x and is to be added; empty for none
};

/// Work buffers that grow and are kept between calls.
template <class T>
struct FrozenScratch {
    struct OfThread {
        core::Buffer<accumulator_t<T>> sums;
        core::Buffer<std::byte> panel;
        RightPanels panels;
        WeightStream<T> weights;
    };
    std::vector<core::Buffer<std::byte>> operands;  ///< packed token rows, two for each product: of x and of low
    std::vector<OfThread> of_thread;
};

/// Computes independent products together, so that small ones share the thread team. Results must not overlap; they do
/// not depend on the number of threads.
template <class T>
void multiply(const kernels::KernelSet& kernels, std::span<const FrozenProduct<T>> batch, FrozenScratch<T>& scratch);

}  // namespace moesaic::ops
