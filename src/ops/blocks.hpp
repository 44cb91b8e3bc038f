// Blocks of 32 x 32 elements, the unit that kernels work on: a block is contiguous memory, so that reading rows or
// columns of blocks meets neither strided lines nor page conflicts.
#pragma once

#include "core/matrix.hpp"
#include "kernels/micro_kernel.hpp"

#include <algorithm>

namespace moesaic::ops {

using core::index_t;
using core::MatrixView;
using kernels::kernel_block;

inline constexpr index_t block_elements = kernel_block * kernel_block;

/// Blocks that cover `extent` elements.
[[nodiscard]] constexpr index_t blocks_of(index_t extent) {
    return (extent + kernel_block - 1) / kernel_block;
}
/// The same in elements.
[[nodiscard]] constexpr index_t padded(index_t extent) {
    return blocks_of(extent) * kernel_block;
}
/// Elements of block `block` along a dimension of `extent` elements.
[[nodiscard]] constexpr index_t extent_of_block(index_t extent, index_t block) {
    return std::min(kernel_block, extent - block * kernel_block);
}

/// Blocks along k of one strip of an operand, as kernels read them.
template <class Scalar>
struct BlockRun {
    const Scalar* first = nullptr;
    index_t step = 0;  ///< elements from one block to the next
    index_t blocks = 0;

    [[nodiscard]] const Scalar* block(index_t b) const { return first + b * step; }
};

}  // namespace moesaic::ops
