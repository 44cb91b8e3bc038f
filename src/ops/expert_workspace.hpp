// Buffers of expert layers: what a forward leaves for its backward, and work space that all layers of a process share.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "core/worker.hpp"
#include "ops/dropout.hpp"
#include "ops/integer_products.hpp"
#include "ops/routed_rows.hpp"
#include "ops/row_chunks.hpp"
#include "ops/strip_products.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// What becomes of activations between a forward and its backward.
enum class Activations : std::uint8_t {
    retain,     ///< they are kept
    recompute,  ///< gate and up are computed again from the input of their network
    layer,      ///< a layer of a decoder is computed again from what entered it; routed experts do as in `recompute`
};
constexpr auto names_of(Activations) {
    return std::to_array<std::string_view>({"retain", "recompute", "layer"});
}

/// Gate and up projections of the routed rows, before the activation. Features come first: a chunk of rows (RowChunk)
/// is a matrix [I, rows] at element I * begin, and x A^T times the scale of LoRA a matrix [R, rows] at R * begin.
template <class Scalar>
struct PreActivations {
    std::array<Matrix<Scalar>, 2> values;    // gate, up: I * (T * K) elements
    std::array<Matrix<Scalar>, 2> low_rank;  // gate, up: R * (T * K) elements

    [[nodiscard]] std::size_t bytes() const noexcept {
        return (values[0].size() + values[1].size() + low_rank[0].size() + low_rank[1].size()) * sizeof(Scalar);
    }
};

/// Rows for experts, with the experts that each of them goes to. Views of memory of the caller's.
template <class Scalar>
struct ExpertRows {
    MatrixView<const Scalar> hidden;                  // [N, H]
    MatrixView<const std::int32_t> expert_ids;        // [N, K], some of them maybe of other ranks
    MatrixView<const accumulator_t<Scalar>> weights;  // [N, K]
    Dropout dropout;  ///< of the inputs of A; if it is active with a row for each of the N
};

/// What a forward leaves for its backward. Whoever calls the forward owns it, as many as are wanted; it refers to the
/// hidden states, weights and dropout rows of the forward, which must stay until its backward is done.
template <class Scalar>
struct SavedExperts {
    MatrixView<const Scalar> hidden;                  // [N, H]
    MatrixView<const accumulator_t<Scalar>> weights;  // [N, K]
    Dropout dropout;
    RoutedRows routed;
    PreActivations<Scalar> pre_activations;  // empty if they are recomputed

    /// Bytes of its own.
    [[nodiscard]] std::size_t bytes() const noexcept { return routed.bytes() + pre_activations.bytes(); }
};

/// Buffers of one thread; they grow and stay.
template <class Scalar>
struct ThreadScratch {
    using Sum = accumulator_t<Scalar>;
    core::Buffer<Scalar> rows;       // gathered token rows
    core::Buffer<Scalar> narrow;     // [32, tokens] results of type Scalar before they are packed
    core::Buffer<std::byte> tokens;  // packed operands
    core::Buffer<std::byte> more_tokens;
    core::Buffer<std::byte> panel;  // of a left operand
    RightPanels panels;
    WeightStream<Scalar> weights;
    core::Buffer<std::byte> lora_matrix;  ///< A or B, packed
    std::array<core::Buffer<Scalar>, 2> low_rank_rows;
    std::array<core::Buffer<std::byte>, 2> low_rank;
    core::Buffer<Sum> low_rank_sums;
    core::Buffer<Sum> dropped_sums;  // [tokens, 32] gradients before dropout's mask
    std::array<core::Buffer<Sum>, 2> sums;
    IntegerScratch<Scalar> integers;
};

/// Work buffers shared by the layers of a process; they grow, and shrink only in `clear_cache`. At most one submission
/// is in flight for all backends that share them.
template <class Scalar>
struct ExpertWorkspace {
    using Sum = accumulator_t<Scalar>;
    Matrix<Sum> results;                // [T, H] output, or in backward the gradient of the input
    Matrix<Sum> grad_weights;           // [T, K]
    std::array<Matrix<Sum>, 2> synced;  ///< the same of the submission that was synced last
    core::Worker worker;
    bool in_flight = false;

    std::vector<RowChunk> chunks;
    index_t strips = 0;                        ///< of all chunks
    std::vector<Sum> row_weights;              // [T * K]
    Dropout dropout;                           ///< of the pass, with a row for every routed row: the tokens below
    std::vector<std::uint64_t> row_tokens;     // [T * K], empty without dropout
    core::Buffer<std::byte> activated;         ///< packed strips: weight * silu(gate) * up
    core::Buffer<std::byte> dropped;           ///< the same after dropout, if there is any
    Matrix<Scalar> rows_out;                   // [T * K, H]
    std::vector<const Scalar*> rows_of_token;  // [T * K] in rows_out
    PreActivations<Scalar> recomputed;
    // In blocks, strip after strip: [strips][blocks of I or R][32, 32].
    core::Buffer<Scalar> activation;  ///< of the backward; of the forward where it is multiplied as integers
    std::array<core::Buffer<Scalar>, 2> grad_pre_activations;  ///< gate, up
    std::array<core::Buffer<Scalar>, 3> grad_low_rank;         ///< gate, up, down: gradient times B
    core::Buffer<Scalar> low_rank_down;                        ///< activation times A^T
    Matrix<Sum> weight_gradient_sums;                          // [blocks of I, T * K], over the features of each block
    std::vector<ThreadScratch<Scalar>> of_thread;

    /// Keeps the results from being overwritten by the next submission.
    void set_results_aside() noexcept {
        std::swap(results, synced[0]);
        std::swap(grad_weights, synced[1]);
    }
    /// Gives the memory back; the views returned by earlier calls become invalid.
    void clear_cache();
};

}  // namespace moesaic::ops
