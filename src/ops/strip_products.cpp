#include "ops/strip_products.hpp"

#include <algorithm>

namespace moesaic::ops {

using core::bf16;

/// Lines of part `part` of `parts` of each block of a panel.
template <class T>
kernels::Ahead StripProducts<T>::ask_for(const StoredRun& panel, index_t part, index_t parts) {
    const index_t first = lines_of_block(panel.format) * part / parts;
    const index_t last = lines_of_block(panel.format) * (part + 1) / parts;
    kernels::Ahead ahead = {};
    ahead.step = panel.step;
    if (panel.blocks > 0) {
        ahead.prefetch = reinterpret_cast<const char*>(panel.first) + first * line_bytes;
        ahead.lines = last - first;
    }
    return ahead;
}

template <class T>
Strips StripProducts<T>::left_of_blocks(const T* blocks, index_t strips, index_t along_k,
                                        core::Buffer<std::byte>& storage) const {
    if (kernel_.left_is_plain) {
        // Kernels read operands only; Strips are mutable for those who pack them.
        auto* data = reinterpret_cast<std::byte*>(const_cast<T*>(blocks));
        return {data, along_k, left_bytes()};
    }
    const Strips packed = left_strips(storage, strips, along_k);
    for (index_t i = 0; i < strips * along_k; ++i) {
        pack_left(packed.at(0, i), rows(blocks + i * block_elements, block_size, block_size, block_size));
    }
    return packed;
}

template <class T>
void StripProducts<T>::multiply(const kernels::StripProduct<A>& product) const {
    kernel_.multiply(product);
    const kernels::StripTerm& more = product.more;
    if (more.k > 0 && !kernel_.adds_terms) {
        kernel_.multiply(
            {product.rows, product.cols, more.k, more.left, more.right, product.c, product.stride, true, {}, {}});
    }
}

template <class T>
void StripProducts<T>::pack_panel(const BlockRun<T>& weights, index_t first, std::byte* panel) const {
    for (index_t b = first; b < weights.blocks; ++b) {
        pack_right(panel + b * right_bytes(), columns(weights.block(b), block_size, block_size, block_size));
    }
}

template <class T>
void StripProducts<T>::strip_by_tokens(const std::byte* left, index_t features, index_t k, const Strips& tokens,
                                       index_t token_count, A* c, index_t stride) const {
    const index_t step = blocks_of_panel(blocks_of(k), largest_panel());
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * block_size, k - begin * block_size);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            multiply({features,
                      extent_of_block(token_count, s),
                      depth,
                      left + begin * left_bytes(),
                      tokens.at(s, begin),
                      c + s * block_size,
                      stride,
                      begin > 0,
                      {},
                      {}});
        }
    }
}

template <class T>
void StripProducts<T>::tokens_by_strip(const Strips& tokens, index_t token_count, const std::byte* right,
                                       index_t features, index_t k, A* c) const {
    const index_t step = blocks_of_panel(blocks_of(k), largest_panel());
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * block_size, k - begin * block_size);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            multiply({extent_of_block(token_count, s),
                      features,
                      depth,
                      tokens.at(s, begin),
                      right + begin * right_bytes(),
                      c + s * block_elements,
                      block_size,
                      begin > 0,
                      {},
                      {}});
        }
    }
}

template class StripProducts<bf16>;
template class StripProducts<float>;
template class StripProducts<double>;

}  // namespace moesaic::ops
