#include "ops/integer_products.hpp"

#include <algorithm>

namespace moesaic::ops {

using core::bf16;

template <class Scalar>
QuantisedTokens<accumulator_t<Scalar>> IntegerProducts<Scalar>::quantise(const Scalar* blocks, index_t rows,
                                                                         index_t along_k, const Sum* factors, Side side,
                                                                         IntegerScratch<Scalar>& scratch,
                                                                         std::size_t slot) const {
    const index_t strips = blocks_of(rows);
    const index_t depth = along_k * kernel_block;
    const bool is_left = side == Side::left;
    const auto block_bytes = static_cast<index_t>(is_left ? kernel_.left_bytes : kernel_.right_bytes);
    const index_t strip_bytes = packed_blocks(along_k) * block_bytes;
    typename IntegerScratch<Scalar>::Tokens& tokens = scratch.tokens[slot];
    std::byte* packed = tokens.strips.reserve(static_cast<std::size_t>(strips * strip_bytes));
    Sum* scales = tokens.scales.reserve(static_cast<std::size_t>(strips * kernel_block));
    const index_t stride = depth + line_bytes;  // rows that are packed together must not lie a power of 2 apart
    int8* codes = scratch.codes.reserve(static_cast<std::size_t>(kernel_block * stride));
    for (index_t s = 0; s < strips; ++s) {
        const index_t count = extent_of_block(rows, s);
        const Scalar* of_strip = blocks + s * along_k * block_elements;
        for (index_t row = 0; row < count; ++row) {
            scales[s * kernel_block + row] = elementwise_.quantise(depth, of_strip + row * kernel_block, block_elements,
                                                                   factors, codes + row * stride);
        }
        (is_left ? kernel_.pack_left : kernel_.pack_right)(packed + s * strip_bytes,
                                                           {codes, stride, true, count, depth, kernel_block});
    }
    return {{packed, packed_blocks(along_k), block_bytes}, scales};
}

template <class Scalar>
const accumulator_t<Scalar>* IntegerProducts<Scalar>::scales_of(const PackedWeights& weights, index_t matrix,
                                                                IntegerScratch<Scalar>& scratch) const {
    const index_t blocks = blocks_of(weights.rows());
    Sum* scales = scratch.row_scales.reserve(static_cast<std::size_t>(blocks * kernel_block));
    for (index_t b = 0; b < blocks; ++b) {
        std::copy_n(weights.scales_of_rows(matrix, b), kernel_block, scales + b * kernel_block);
    }
    return scales;
}

template class IntegerProducts<bf16>;
template class IntegerProducts<float>;
template class IntegerProducts<double>;

}  // namespace moesaic::ops
