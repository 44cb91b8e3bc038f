// Products of token rows with weights in INT8 by rows, both as whole numbers: token rows are rounded to 8 bits with a
// scale for each, sums are exact, and scales make them numbers again.
//
//     forward   y[t, f] = sum_k x[t, k] W[f, k]          W[f, k] = code * scale[f], applied to the sums
//     backward  y[t, k] = sum_f g[t, f] W[f, k]          scale[f] is applied to g before it is rounded
//
// So every weight is read once, as it is stored, in both directions.
#pragma once

#include "kernels/kernel_set.hpp"
#include "ops/blocks.hpp"
#include "ops/strip_products.hpp"
#include "ops/weights/packed_weights.hpp"
#include "ops/weights/weight_stream.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace moesaic::ops {

using core::accumulator_t;
using kernels::int8;

/// Token rows in 8 bits as packed strips, and a scale for each row.
template <class Sum>
struct QuantisedTokens {
    Strips strips{};
    const Sum* scales = nullptr;  // [strips * 32]
};

/// Which operand packed rows are.
enum class Side : std::uint8_t { left, right };

/// Buffers of one thread.
template <class Scalar>
struct IntegerScratch {
    using Sum = accumulator_t<Scalar>;
    struct Tokens {
        core::Buffer<std::byte> strips;
        core::Buffer<Sum> scales;
    };
    std::array<Tokens, 2> tokens;
    core::Buffer<int8> codes;         ///< of a strip of rows before they are packed
    core::Buffer<Sum> row_scales;     ///< of weights
    core::Buffer<Sum> activation;     ///< [32, tokens], before it is narrowed
    core::Buffer<std::byte> panel;    ///< of weights
    core::Buffer<std::int32_t> sums;  ///< of the token strips of a chunk
};

/// Results are as those of StripProducts. All functions run on the calling thread, products within a ProcessorScope of
/// `processor_state`.
template <class Scalar>
class IntegerProducts {
public:
    using Sum = accumulator_t<Scalar>;

    /// Both must outlive the object.
    IntegerProducts(const kernels::KernelSet& kernels, const StripProducts<Scalar>& products)
        : products_(products), kernel_(kernels.micro_kernel<int8>()), elementwise_(kernels.elementwise<Scalar>()) {}

    /// Longest panels of weights.
    [[nodiscard]] PanelBlocks largest_panel() const {
        const index_t blocks = kernel_.unpacked_depth / kernel_block;
        return {blocks, blocks, kernel_.block_depth / kernel_block};
    }
    /// Rows [strips][along_k][32, 32] of which `rows` are there; each element is multiplied by the factor of its k, or
    /// by 1 if there are none.
    [[nodiscard]] QuantisedTokens<Sum> quantise(const Scalar* blocks, index_t rows, index_t along_k, const Sum* factors,
                                                Side side, IntegerScratch<Scalar>& scratch, std::size_t slot) const;
    /// Scales of the rows of a matrix, zeros behind them up to whole blocks.
    [[nodiscard]] const Sum* scales_of(const PackedWeights& weights, index_t matrix,
                                       IntegerScratch<Scalar>& scratch) const;

    /// C[features, tokens] = W tokens^T for the next run of a stream, a strip of rows of W. `more` adds the product of
    /// two packed strips of Scalar; done(s) is called when the sums of token strip s are complete.
    template <class Done>
    void weights_by_tokens(WeightStream<Scalar>& weights, index_t features, const QuantisedTokens<Sum>& tokens,
                           index_t token_count, Sum* c, index_t stride, IntegerScratch<Scalar>& scratch,
                           const TokenTerm& more, const Done& done) const;
    /// C[tokens, features] = tokens W for the next run of a stream, a column of blocks of W.
    template <class Done>
    void tokens_by_weights(const QuantisedTokens<Sum>& tokens, index_t token_count, WeightStream<Scalar>& weights,
                           index_t features, Sum* c, bool accumulate, IntegerScratch<Scalar>& scratch,
                           const TokenTerm& more, const Done& done) const;

    [[nodiscard]] const kernels::ProcessorState& processor_state() const { return kernel_.state; }

private:
    [[nodiscard]] index_t packed_blocks(index_t blocks) const {
        return (blocks * kernel_block + kernel_.block_depth - 1) / kernel_.block_depth;
    }
    /// Packs the panels of the next run as operand `is`, and calls multiply(s, panel, first packed block, depth,
    /// whether it is the first, side work) for each of them and each token strip s.
    template <class Multiply>
    void for_each_panel(WeightStream<Scalar>& weights, Side is, index_t features, index_t strips,
                        core::Buffer<std::byte>& storage, const Multiply& multiply) const;

    const StripProducts<Scalar>& products_;
    const kernels::micro_kernel_t<int8>& kernel_;
    const kernels::ElementwiseKernels<Scalar>& elementwise_;
};

template <class Scalar>
template <class Multiply>
void IntegerProducts<Scalar>::for_each_panel(WeightStream<Scalar>& weights, Side is, index_t features, index_t strips,
                                             core::Buffer<std::byte>& storage, const Multiply& multiply) const {
    const std::size_t block_bytes = is == Side::left ? kernel_.left_bytes : kernel_.right_bytes;
    std::byte* panel = storage.reserve(static_cast<std::size_t>(packed_blocks(weights.panel_blocks())) * block_bytes);
    for (index_t p = 0; p < weights.panels_per_run(); ++p) {
        const StoredRun now = weights.stored();
        const StoredRun asked = weights.take_panel_to_ask_for();
        kernels::SideWork side = {};
        side.fetch = plain(asked);
        const index_t depth = now.blocks * kernel_block;
        const kernels::Operand<int8> codes = {
            reinterpret_cast<const int8*>(now.first), kernel_block, is == Side::left, features, depth, now.step};
        (is == Side::left ? kernel_.pack_left : kernel_.pack_right)(panel, codes);
        const index_t first = packed_blocks(p * weights.panel_blocks());
        for (index_t s = 0; s < strips; ++s) {
            share(side, lines_of_block(asked.format), s, strips);
            multiply(s, panel, first, depth, p == 0, side);
        }
        weights.finish();
    }
}

template <class Scalar>
template <class Done>
void IntegerProducts<Scalar>::weights_by_tokens(WeightStream<Scalar>& weights, index_t features,
                                                const QuantisedTokens<Sum>& tokens, index_t token_count, Sum* c,
                                                index_t stride, IntegerScratch<Scalar>& scratch, const TokenTerm& more,
                                                const Done& done) const {
    const index_t strips = blocks_of(token_count);
    std::array<Sum, kernel_block> of_features;
    std::copy_n(reinterpret_cast<const float*>(weights.stored().first + block_elements), kernel_block,
                of_features.begin());
    std::int32_t* sums = scratch.sums.reserve(static_cast<std::size_t>(strips * block_elements));
    for_each_panel(
        weights, Side::left, features, strips, scratch.panel,
        [&](index_t s, const std::byte* panel, index_t first, index_t depth, bool is_first, kernels::SideWork& side) {
            kernel_.multiply({features,
                              extent_of_block(token_count, s),
                              {panel, tokens.strips.at(s, first), depth},
                              sums + s * block_elements,
                              kernel_block,
                              !is_first,
                              {},
                              &side});
        });
    for (index_t s = 0; s < strips; ++s) {
        const index_t columns = extent_of_block(token_count, s);
        elementwise_.scale_integers(features, columns, sums + s * block_elements, kernel_block, of_features.data(),
                                    tokens.scales + s * kernel_block, false, c + s * kernel_block, stride);
        if (more.k > 0) {
            products_.multiply_by_tokens(
                {features, columns, {more.strip, more.tokens.at(s), more.k}, c + s * kernel_block, stride, true});
        }
        done(s);
    }
}

template <class Scalar>
template <class Done>
void IntegerProducts<Scalar>::tokens_by_weights(const QuantisedTokens<Sum>& tokens, index_t token_count,
                                                WeightStream<Scalar>& weights, index_t features, Sum* c,
                                                bool accumulate, IntegerScratch<Scalar>& scratch, const TokenTerm& more,
                                                const Done& done) const {
    const index_t strips = blocks_of(token_count);
    std::int32_t* sums = scratch.sums.reserve(static_cast<std::size_t>(strips * block_elements));
    for_each_panel(
        weights, Side::right, features, strips, scratch.panel,
        [&](index_t s, const std::byte* panel, index_t first, index_t depth, bool is_first, kernels::SideWork& side) {
            kernel_.multiply({extent_of_block(token_count, s),
                              features,
                              {tokens.strips.at(s, first), panel, depth},
                              sums + s * block_elements,
                              kernel_block,
                              !is_first,
                              {},
                              &side});
        });
    for (index_t s = 0; s < strips; ++s) {
        const index_t rows = extent_of_block(token_count, s);
        Sum* of_strip = c + s * block_elements;
        elementwise_.scale_integers(rows, features, sums + s * block_elements, kernel_block,
                                    tokens.scales + s * kernel_block, nullptr, accumulate, of_strip, kernel_block);
        if (more.k > 0) {
            products_.strip_by_strip(more.tokens.at(s), rows, more.strip, features, more.k, of_strip, kernel_block,
                                     true);
        }
        done(s);
    }
}

}  // namespace moesaic::ops
