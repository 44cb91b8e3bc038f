#include "model/strip_products.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

using core::bf16;

}  // namespace

/// Lines of part `part` of `parts` of each block of a panel.
template <class T>
kernels::Ahead StripProducts<T>::ask_for(const BlockRun<T>& panel, index_t part, index_t parts) {
    using Stream = WeightStream<T>;
    const index_t first = Stream::block_lines * part / parts;
    const index_t last = Stream::block_lines * (part + 1) / parts;
    kernels::Ahead ahead = {};
    ahead.step = panel.step * static_cast<index_t>(sizeof(T));
    if (panel.blocks > 0) {
        ahead.prefetch = reinterpret_cast<const char*>(panel.first) + first * Stream::line_bytes;
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
void StripProducts<T>::weights_by_tokens(WeightStream<T>& weights, index_t features, const Strips& tokens,
                                         index_t token_count, A* c, index_t stride, bool accumulate,
                                         core::Buffer<std::byte>& panel, const TokenTerm& more,
                                         const Strips& low) const {
    const index_t strips = blocks_of(token_count);
    for (index_t p = 0; p < weights.panels_per_run(); ++p) {
        const BlockRun<T> now = weights.panel(weights.now());
        const std::byte* left = left_of_blocks(now.first, 1, now.blocks, panel).data;
        const BlockRun<T> later = weights.take_panel_to_ask_for();
        const bool adds = more.k > 0 && p == weights.panels_per_run() - 1;
        const index_t depth = now.blocks * block_size;
        const index_t first = p * weights.panel_blocks();
        for (index_t s = 0; s < strips; ++s) {
            const kernels::StripTerm term = low.data != nullptr ? kernels::StripTerm{left, low.at(s, first), depth}
                                            : adds ? kernels::StripTerm{more.factor, more.tokens.at(s), more.k}
                                                   : kernels::StripTerm{};
            multiply({features, extent_of_block(token_count, s), depth, left, tokens.at(s, first), c + s * block_size,
                      stride, accumulate || p > 0, ask_for(later, s, strips), term});
        }
        weights.finish();
    }
}

template <class T>
void StripProducts<T>::pack_panel(const BlockRun<T>& weights, index_t first, std::byte* panel) const {
    for (index_t b = first; b < weights.blocks; ++b) {
        pack_right(panel + b * right_bytes(), columns(weights.block(b), block_size, block_size, block_size));
    }
}

template <class T>
void StripProducts<T>::tokens_by_weights(const Strips& tokens, index_t token_count, WeightStream<T>& weights,
                                         index_t features, A* c, bool accumulate, RightPanels& panels,
                                         const TokenTerm& more) const {
    constexpr index_t pairs = block_size / 2;
    const index_t strips = blocks_of(token_count);
    const Strips both = right_strips(panels.storage, 2, weights.panel_blocks());
    for (index_t p = 0; p < weights.panels_per_run(); ++p) {
        const BlockRun<T> now = weights.panel(weights.now());
        if (!panels.is_packed) {
            pack_panel(now, 0, both.at(panels.in_use));
        }
        const BlockRun<T> next = kernel_.packs_ahead ? weights.panel(weights.now() + 1) : BlockRun<T>();
        const BlockRun<T> later = weights.take_panel_to_ask_for();
        std::byte* free_panel = both.at(1 - panels.in_use);
        const bool adds = more.k > 0 && p == weights.panels_per_run() - 1;
        for (index_t s = 0; s < strips; ++s) {
            kernels::Ahead ahead = ask_for(later, s, strips);
            ahead.blocks = reinterpret_cast<const char*>(next.first);
            ahead.step = next.blocks > 0 ? next.step * static_cast<index_t>(sizeof(T)) : ahead.step;
            ahead.block_count = next.blocks;
            ahead.strip = free_panel;
            ahead.first_pair = pairs * s / strips;
            ahead.last_pair = pairs * (s + 1) / strips;
            multiply({extent_of_block(token_count, s), features, now.blocks * block_size,
                      tokens.at(s, p * weights.panel_blocks()), both.at(panels.in_use), c + s * block_elements,
                      block_size, accumulate || p > 0, ahead,
                      adds ? kernels::StripTerm{more.tokens.at(s), more.factor, more.k} : kernels::StripTerm{}});
        }
        panels.is_packed = next.blocks > 0;
        if (panels.is_packed) {
            pack_panel(next, now.blocks, free_panel);  // what the last panel of a run had no time for
            panels.in_use = 1 - panels.in_use;
        }
        weights.finish();
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

}  // namespace moesaic::model
