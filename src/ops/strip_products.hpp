// Products of the token rows of one expert with its weights, on packed strips: where weights are streamed once, packed
// or re-paired panel by panel in the cache next to the kernel, and meet token strips that stay in the L2 cache.
#pragma once

#include "kernels/kernel_set.hpp"
#include "ops/blocks.hpp"
#include "ops/weights/weight_stream.hpp"

#include <cstddef>

namespace moesaic::ops {

using core::accumulator_t;

/// Packed strips of one operand: strip s holds the vectors 32 s to 32 s + 31, block after block along k.
struct Strips {
    std::byte* data = nullptr;
    index_t blocks = 0;  ///< along k
    index_t block_bytes = 0;

    [[nodiscard]] std::byte* at(index_t strip, index_t block = 0) const {
        return data + (strip * blocks + block) * block_bytes;
    }
};

/// A packed strip of features and the strips of tokens that it is multiplied with.
struct TokenTerm {
    const std::byte* strip = nullptr;
    Strips tokens{};
    index_t k = 0;  ///< 0 says none
};

/// Right panels of weights of one thread: the one in use, and the next, which may have been packed on the side.
struct RightPanels {
    core::Buffer<std::byte> storage;
    index_t in_use = 0;
    bool is_packed = false;  ///< the panel in use is the one that comes now

    void forget() { is_packed = false; }
};

/// Blocks as they are stored, for products to ask for.
[[nodiscard]] inline kernels::PlainBlocks plain(const StoredRun& run) {
    return {run.first, run.step, run.blocks};
}
/// Gives the next product its share of side work, that of token strip `strip`. `lines`: of a block to fetch.
inline void share(kernels::SideWork& side, index_t lines, index_t strip, index_t strips) {
    const auto cut = [&](index_t all, index_t end) { return all * end / strips; };
    side.first_row = cut(kernel_block, strip);
    side.last_row = cut(kernel_block, strip + 1);
    side.first_line = cut(lines, strip);
    side.last_line = cut(lines, strip + 1);
}

/// Results are rows of sums in blocks of 32 vectors. In "weights by tokens" C is [32 features, stride >= tokens padded
/// to 32]; in "tokens by weights" C is [tokens padded to 32, 32 features]. Only whole groups of 16 beyond the real
/// extents are written. All functions run on the calling thread, between `begin` and `end` (see TileState).
template <class Scalar>
class StripProducts {
public:
    using Sum = accumulator_t<Scalar>;
    using Vectors = kernels::Operand<kernels::stored_t<Scalar>>;

    /// `kernels` must outlive the object.
    explicit StripProducts(const kernels::KernelSet& kernels)
        : kernels_(kernels), kernel_(kernels.micro_kernel<Scalar>()) {}

    /// Vectors that are rows, k their columns.
    [[nodiscard]] static Vectors rows(const Scalar* data, index_t stride, index_t count, index_t k) {
        return {stored(data), stride, true, count, k, kernel_block};
    }
    /// Vectors that are columns, k their rows.
    [[nodiscard]] static Vectors columns(const Scalar* data, index_t stride, index_t count, index_t k) {
        return {stored(data), stride, false, count, k, kernel_block * stride};
    }
    /// Vectors that are the rows of blocks side by side, or the columns of blocks one below the other.
    [[nodiscard]] static Vectors rows(const BlockRun<Scalar>& run, index_t count, index_t k) {
        return {stored(run.first), kernel_block, true, count, k, run.step};
    }
    [[nodiscard]] static Vectors columns(const BlockRun<Scalar>& run, index_t count, index_t k) {
        return {stored(run.first), kernel_block, false, count, k, run.step};
    }

    [[nodiscard]] index_t left_bytes() const { return static_cast<index_t>(kernel_.left_bytes); }
    [[nodiscard]] index_t right_bytes() const { return static_cast<index_t>(kernel_.right_bytes); }
    [[nodiscard]] Strips left_strips(core::Buffer<std::byte>& storage, index_t strips, index_t blocks) const {
        return {storage.reserve(static_cast<std::size_t>(strips * blocks * left_bytes())), blocks, left_bytes()};
    }
    [[nodiscard]] Strips right_strips(core::Buffer<std::byte>& storage, index_t strips, index_t blocks) const {
        return {storage.reserve(static_cast<std::size_t>(strips * blocks * right_bytes())), blocks, right_bytes()};
    }
    void pack_left(std::byte* strip, const Vectors& vectors) const { kernel_.pack_left(strip, vectors); }
    void pack_right(std::byte* strip, const Vectors& vectors) const { kernel_.pack_right(strip, vectors); }
    /// The same for tokens that are to meet weights as left operand.
    void pack_tokens(std::byte* strip, const Vectors& vectors) const {
        vectors.count <= kernel_.few_columns ? kernel_.pack_left(strip, vectors) : kernel_.pack_right(strip, vectors);
    }
    /// Token rows in blocks [strips][blocks] as left operand: the memory itself where the kernel reads it as it is,
    /// else packed into `storage`.
    [[nodiscard]] Strips left_of_blocks(const Scalar* blocks, index_t strips, index_t along_k,
                                        core::Buffer<std::byte>& storage) const;

    /// Strips of so many blocks of tokens that stay in the L2 cache while weights pass: one at least.
    [[nodiscard]] index_t strips_in_cache(index_t blocks) const {
        return std::max<index_t>(1, kernel_.token_bytes / (blocks * std::max(left_bytes(), right_bytes())));
    }
    /// One product of two strips, of which the right one is tokens from `pack_tokens`.
    void multiply_by_tokens(const kernels::StripProduct<Sum>& product) const {
        product.cols <= kernel_.few_columns ? kernel_.multiply_few_columns(product) : kernel_.multiply(product);
    }
    /// Longest panels of weights for so many tokens.
    [[nodiscard]] PanelBlocks largest_panel(index_t tokens) const {
        constexpr index_t few_strips = 2;
        constexpr index_t blocks_of_dot_products = 16;  // their lanes are added up after each panel
        if (tokens <= kernel_.few_columns) {
            return {blocks_of_dot_products, blocks_of_dot_products};
        }
        const index_t usual = kernel_.panel_depth / kernel_block;
        return {usual, blocks_of(tokens) <= few_strips ? kernel_.unpacked_depth / kernel_block : usual};
    }
    /// C[features, tokens] = W tokens^T for the next run of a stream, a strip of rows of W. `more` adds the product of
    /// a packed left strip of the same features with further strips of the same tokens. done(s) is called as soon as
    /// the sums of token strip s are complete, while they are in the L1 cache: what it writes to memory then leaves
    /// the core during the products of the next strip. `low`, which excludes `more`, adds the product of W with what
    /// rounding took from the tokens.
    template <class Done>
    void weights_by_tokens(WeightStream<Scalar>& weights, index_t features, const Strips& tokens, index_t token_count,
                           Sum* c, index_t stride, bool accumulate, core::Buffer<std::byte>& panel,
                           const TokenTerm& more, const Done& done, const Strips& low = {}) const;
    /// C[tokens, features] = tokens W for the next run of a stream, a column of blocks of W, whose rows are k. `more`
    /// adds the product of further strips of the same tokens with a packed right strip of the same features.
    template <class Done>
    void tokens_by_weights(const Strips& tokens, index_t token_count, WeightStream<Scalar>& weights, index_t features,
                           Sum* c, bool accumulate, RightPanels& panels, const TokenTerm& more, const Done& done) const;
    /// The same with a small operand that is packed already, k at most what its strip holds.
    void strip_by_tokens(const std::byte* left, index_t features, index_t k, const Strips& tokens, index_t token_count,
                         Sum* c, index_t stride) const;
    void tokens_by_strip(const Strips& tokens, index_t token_count, const std::byte* right, index_t features, index_t k,
                         Sum* c) const;
    /// One product of two strips, k as long as both are.
    void strip_by_strip(const std::byte* left, index_t rows, const std::byte* right, index_t cols, index_t k, Sum* c,
                        index_t stride, bool accumulate) const {
        kernel_.multiply({rows, cols, {left, right, k}, c, stride, accumulate});
    }

    /// Products of at most so many tokens are better computed without strips.
    [[nodiscard]] index_t few_rows() const { return kernel_.few_rows; }
    /// C[tokens, features] = x W^T for a strip of rows of W, or x W for a column of blocks (`transposed`); x [tokens,
    /// k] is contiguous, rows of C are `stride` apart. `unpacked` serves formats that kernels don't read in place.
    void few_rows_by_weights(index_t tokens, const Sum* x, const StoredRun& stored, core::Buffer<Scalar>& unpacked,
                             bool transposed, index_t k, index_t features, Sum* c, index_t stride,
                             bool accumulate) const {
        const BlockRun<Scalar> weights = panel_of<Scalar>(kernels_, stored, unpacked);
        kernel_.multiply_few_rows(x, transposed ? columns(weights, features, k) : rows(weights, features, k),
                                  {c, stride, tokens, features, Sum(1), accumulate});
    }

    /// Processor state that products need: lives on the stack of the thread that computes them.
    class TileState : kernels::ProcessorScope {
    public:
        explicit TileState(const StripProducts& products) : ProcessorScope(products.kernel_.state) {}
    };

private:
    [[nodiscard]] static const kernels::stored_t<Scalar>* stored(const Scalar* data) {
        return reinterpret_cast<const kernels::stored_t<Scalar>*>(data);
    }
    /// The panel that comes now, as right operand.
    void read_right(WeightStream<Scalar>& weights, std::byte* panel) const;
    void pack_panel(const BlockRun<Scalar>& weights, index_t first, std::byte* panel) const;
    [[nodiscard]] static kernels::PlainBlocks plain(const BlockRun<Scalar>& run) {
        return {run.first, run.step * static_cast<index_t>(sizeof(Scalar)), run.blocks};
    }

    const kernels::KernelSet& kernels_;
    const kernels::micro_kernel_t<Scalar>& kernel_;
};

template <class Scalar>
template <class Done>
void StripProducts<Scalar>::weights_by_tokens(WeightStream<Scalar>& weights, index_t features, const Strips& tokens,
                                              index_t token_count, Sum* c, index_t stride, bool accumulate,
                                              core::Buffer<std::byte>& panel, const TokenTerm& more, const Done& done,
                                              const Strips& low) const {
    const index_t strips = blocks_of(token_count);
    for (index_t p = 0; p < weights.panels_per_run(); ++p) {
        const BlockRun<Scalar> now = weights.read(kernels_);
        const std::byte* left = left_of_blocks(now.first, 1, now.blocks, panel).data;
        kernels::SideWork side = {};
        const StoredRun asked = weights.take_panel_to_ask_for();
        side.fetch = ops::plain(asked);
        const bool is_last = p == weights.panels_per_run() - 1;
        const index_t depth = now.blocks * kernel_block;
        const index_t first = p * weights.panel_blocks();
        for (index_t s = 0; s < strips; ++s) {
            const kernels::StripTerm term = low.data != nullptr ? kernels::StripTerm{left, low.at(s, first), depth}
                                            : is_last ? kernels::StripTerm{more.strip, more.tokens.at(s), more.k}
                                                      : kernels::StripTerm{};
            share(side, lines_of_block(asked.format), s, strips);
            multiply_by_tokens({features,
                                extent_of_block(token_count, s),
                                {left, tokens.at(s, first), depth},
                                c + s * kernel_block,
                                stride,
                                accumulate || p > 0,
                                term,
                                &side});
            if (is_last) {
                done(s);
            }
        }
        weights.finish();
    }
}

template <class Scalar>
template <class Done>
void StripProducts<Scalar>::tokens_by_weights(const Strips& tokens, index_t token_count, WeightStream<Scalar>& weights,
                                              index_t features, Sum* c, bool accumulate, RightPanels& panels,
                                              const TokenTerm& more, const Done& done) const {
    const index_t strips = blocks_of(token_count);
    const Strips both = right_strips(panels.storage, 2, weights.panel_blocks());
    for (index_t p = 0; p < weights.panels_per_run(); ++p) {
        if (!panels.is_packed) {
            read_right(weights, both.at(panels.in_use));
        }
        const index_t blocks = weights.blocks();
        const BlockRun<Scalar> next = weights.next_in_place(kernels_);
        std::byte* free_panel = both.at(1 - panels.in_use);
        kernels::SideWork side = {};
        const StoredRun asked = weights.take_panel_to_ask_for();
        side.fetch = ops::plain(asked);
        side.pack = plain(next);
        side.strip = free_panel;
        const bool is_last = p == weights.panels_per_run() - 1;
        for (index_t s = 0; s < strips; ++s) {
            share(side, lines_of_block(asked.format), s, strips);
            kernel_.multiply(
                {extent_of_block(token_count, s),
                 features,
                 {tokens.at(s, p * weights.panel_blocks()), both.at(panels.in_use), blocks * kernel_block},
                 c + s * block_elements,
                 kernel_block,
                 accumulate || p > 0,
                 is_last ? kernels::StripTerm{more.tokens.at(s), more.strip, more.k} : kernels::StripTerm{},
                 &side});
            if (is_last) {
                done(s);
            }
        }
        panels.is_packed = side.packed > 0;
        if (panels.is_packed) {
            pack_panel(next, side.packed, free_panel);  // what the last panel of a run had no time for
            panels.in_use = 1 - panels.in_use;
        }
        weights.finish();
    }
}

}  // namespace moesaic::ops
