#include "ops/strip_products.hpp"

#include <algorithm>

namespace moesaic::ops {

using core::bf16;

template <class Scalar>
Strips StripProducts<Scalar>::left_of_blocks(const Scalar* blocks, index_t strips, index_t along_k,
                                             core::Buffer<std::byte>& storage) const {
    if (kernel_.left_is_plain) {
        // Kernels read operands only; Strips are mutable for those who pack them.
        auto* data = reinterpret_cast<std::byte*>(const_cast<Scalar*>(blocks));
        return {data, along_k, left_bytes()};
    }
    const Strips packed = left_strips(storage, strips, along_k);
    for (index_t s = 0; s < strips; ++s) {
        pack_left(packed.at(s), rows({blocks + s * along_k * block_elements, block_elements, along_k}, kernel_block,
                                     along_k * kernel_block));
    }
    return packed;
}

template <class Scalar>
void StripProducts<Scalar>::read_right(WeightStream<Scalar>& weights, std::byte* panel) const {
    if (kernel_.right_is_pairs && !weights.are_in_place()) {
        weights.read(kernels_, kernels::WeightOrder::pairs, reinterpret_cast<Scalar*>(panel));
    } else {
        pack_panel(weights.read(kernels_), 0, panel);
    }
}

template <class Scalar>
void StripProducts<Scalar>::pack_panel(const BlockRun<Scalar>& weights, index_t first, std::byte* panel) const {
    const index_t blocks = weights.blocks - first;
    if (blocks > 0) {
        pack_right(panel + first * right_bytes(),
                   columns({weights.block(first), weights.step, blocks}, kernel_block, blocks * kernel_block));
    }
}

template <class Scalar>
void StripProducts<Scalar>::strip_by_tokens(const std::byte* left, index_t features, index_t k, const Strips& tokens,
                                            index_t token_count, Sum* c, index_t stride) const {
    const index_t step = blocks_of_panel(blocks_of(k), kernel_.panel_depth / kernel_block);
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * kernel_block, k - begin * kernel_block);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            multiply_by_tokens({features,
                                extent_of_block(token_count, s),
                                {left + begin * left_bytes(), tokens.at(s, begin), depth},
                                c + s * kernel_block,
                                stride,
                                begin > 0});
        }
    }
}

template <class Scalar>
void StripProducts<Scalar>::tokens_by_strip(const Strips& tokens, index_t token_count, const std::byte* right,
                                            index_t features, index_t k, Sum* c) const {
    const index_t step = blocks_of_panel(blocks_of(k), kernel_.panel_depth / kernel_block);
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * kernel_block, k - begin * kernel_block);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            kernel_.multiply({extent_of_block(token_count, s),
                              features,
                              {tokens.at(s, begin), right + begin * right_bytes(), depth},
                              c + s * block_elements,
                              kernel_block,
                              begin > 0});
        }
    }
}

template class StripProducts<bf16>;
template class StripProducts<float>;
template class StripProducts<double>;

}  // namespace moesaic::ops
