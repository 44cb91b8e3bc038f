#include "model/strip_products.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

using core::bf16;

constexpr index_t line_bytes = 64;

}  // namespace

template <class T>
index_t StripProducts<T>::panel_blocks(index_t blocks) const {
    const index_t most = kernel_.panel_depth / block_size;
    const index_t panels = std::max<index_t>(1, (blocks + most - 1) / most);
    return std::max<index_t>(1, (blocks + panels - 1) / panels);
}

/// Lines of part `part` of `parts` of each block of a panel.
template <class T>
kernels::Ahead StripProducts<T>::prefetch(const T* data, index_t step, index_t part, index_t parts) {
    constexpr index_t block_lines = block_elements * static_cast<index_t>(sizeof(T)) / line_bytes;
    const index_t first = block_lines * part / parts;
    const index_t last = block_lines * (part + 1) / parts;
    kernels::Ahead ahead = {};
    ahead.step = step * static_cast<index_t>(sizeof(T));
    if (data != nullptr) {
        ahead.prefetch = reinterpret_cast<const char*>(data) + first * line_bytes;
        ahead.lines = last - first;
    }
    return ahead;
}

template <class T>
void StripProducts<T>::fetch_ahead(const BlockRun<T>& weights) const {
    constexpr index_t block_lines = block_elements * static_cast<index_t>(sizeof(T)) / line_bytes;
    const index_t blocks = panel_blocks(weights.blocks);
    for (index_t b = 0; b < blocks; ++b) {
        const auto* block = reinterpret_cast<const char*>(weights.block(b));
        for (index_t line = 0; line < block_lines; ++line) {
            __builtin_prefetch(block + line * line_bytes, 0, 2);
        }
    }
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
void StripProducts<T>::weights_by_tokens(const BlockRun<T>& weights, index_t features, const Strips& tokens,
                                         index_t token_count, A* c, index_t stride, bool accumulate, const T* next,
                                         core::Buffer<std::byte>& panel) const {
    const index_t step = panel_blocks(weights.blocks);
    const index_t strips = blocks_of(token_count);
    for (index_t begin = 0; begin < weights.blocks; begin += step) {
        const index_t blocks = std::min(step, weights.blocks - begin);
        const std::byte* left = left_of_blocks(weights.block(begin), 1, blocks, panel).data;
        const T* ahead = begin + step < weights.blocks ? weights.block(begin + step) : next;
        for (index_t s = 0; s < strips; ++s) {
            kernel_.multiply({features, extent_of_block(token_count, s), blocks * block_size, left, tokens.at(s, begin),
                              c + s * block_size, stride, accumulate || begin > 0,
                              prefetch(ahead, weights.step, s, strips)});
        }
    }
}

template <class T>
void StripProducts<T>::pack_panel(const BlockRun<T>& weights, index_t first, index_t last, std::byte* panel) const {
    for (index_t b = first; b < last; ++b) {
        pack_right(panel + b * right_bytes(), columns(weights.block(b), block_size, block_size, block_size));
    }
}

template <class T>
void StripProducts<T>::tokens_by_weights(const Strips& tokens, index_t token_count, const BlockRun<T>& weights,
                                         index_t features, A* c, bool accumulate, const T* next,
                                         RightPanels<T>& panels) const {
    const index_t step = panel_blocks(weights.blocks);
    const index_t strips = blocks_of(token_count);
    const index_t count = (weights.blocks + step - 1) / step;
    const Strips both = right_strips(panels.storage, 2, step);
    // The panel `distance` after panel p, of these weights or of those that the caller reads next.
    const auto panel_after = [&](index_t p, index_t distance) -> const T* {
        const index_t after = p + distance;
        if (after < count) {
            return weights.block(after * step);
        }
        return next != nullptr && after - count < count ? next + (after - count) * step * weights.step : nullptr;
    };
    constexpr index_t pairs = block_size / 2;
    for (index_t p = 0; p < count; ++p) {
        const index_t blocks = std::min(step, weights.blocks - p * step);
        if (panels.packed != weights.block(p * step)) {
            pack_panel({weights.block(p * step), weights.step, blocks}, 0, blocks, both.at(panels.in_use));
        }
        const T* following = kernel_.packs_ahead ? panel_after(p, 1) : nullptr;
        std::byte* free_panel = both.at(1 - panels.in_use);
        for (index_t s = 0; s < strips; ++s) {
            kernels::Ahead ahead = prefetch(panel_after(p, kernel_.packs_ahead ? 2 : 1), weights.step, s, strips);
            ahead.blocks = reinterpret_cast<const char*>(following);
            ahead.strip = free_panel;
            ahead.first_pair = pairs * s / strips;
            ahead.last_pair = pairs * (s + 1) / strips;
            kernel_.multiply({extent_of_block(token_count, s), features, blocks * block_size, tokens.at(s, p * step),
                              both.at(panels.in_use), c + s * block_elements, block_size, accumulate || p > 0, ahead});
        }
        panels.packed = following;
        if (following != nullptr) {
            const index_t wanted = p + 1 < count ? std::min(step, weights.blocks - (p + 1) * step) : step;
            pack_panel({following, weights.step, wanted}, blocks, wanted, free_panel);
            panels.in_use = 1 - panels.in_use;
        }
    }
}

template <class T>
void StripProducts<T>::strip_by_tokens(const std::byte* left, index_t features, index_t k, const Strips& tokens,
                                       index_t token_count, A* c, index_t stride, bool accumulate) const {
    const index_t step = panel_blocks(blocks_of(k));
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * block_size, k - begin * block_size);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            kernel_.multiply({features,
                              extent_of_block(token_count, s),
                              depth,
                              left + begin * left_bytes(),
                              tokens.at(s, begin),
                              c + s * block_size,
                              stride,
                              accumulate || begin > 0,
                              {}});
        }
    }
}

template <class T>
void StripProducts<T>::tokens_by_strip(const Strips& tokens, index_t token_count, const std::byte* right,
                                       index_t features, index_t k, A* c, bool accumulate) const {
    const index_t step = panel_blocks(blocks_of(k));
    for (index_t begin = 0; begin < blocks_of(k); begin += step) {
        const index_t depth = std::min(step * block_size, k - begin * block_size);
        for (index_t s = 0; s < blocks_of(token_count); ++s) {
            kernel_.multiply({extent_of_block(token_count, s),
                              features,
                              depth,
                              tokens.at(s, begin),
                              right + begin * right_bytes(),
                              c + s * block_elements,
                              block_size,
                              accumulate || begin > 0,
                              {}});
        }
    }
}

template class StripProducts<bf16>;
template class StripProducts<float>;
template class StripProducts<double>;

}  // namespace moesaic::model
