// A tape owns a forward pass: what backward reads, and nothing else does it read.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "model/block.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "model/pass.hpp"
#include "ops/expert_workspace.hpp"

#include <array>
#include <map>
#include <memory>
#include <typeindex>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::Matrix;

/// What a tape keeps of a block that backward goes through.
struct KeptOfBlock {
    bool stream = false;  ///< the residual stream before its norm
    bool state = false;   ///< what the norm and the block make of it
};
/// `is_first`: of those blocks of its layer.
[[nodiscard]] constexpr KeptOfBlock kept_of_block(ops::Activations activations, bool is_first) {
    const bool by_layer = activations == ops::Activations::layer;
    return {!by_layer || is_first, !by_layer};
}

/// What is kept of one block. T: rows of this rank.
template <class Scalar>
struct BlockTape {
    Matrix<accumulator_t<Scalar>> stream;     // [T, H] residual stream before the block's norm
    std::vector<accumulator_t<Scalar>> rstd;  // [T]
    Matrix<Scalar> input;                     // [T, H] after the norm, rounded
    std::unique_ptr<BlockState<Scalar>> state;
};

/// Any number of tapes may be open at once. One that is used again keeps its buffers. What a backward computes again is
/// `passing` as well.
template <class Scalar>
struct Tape {
    Pass<Scalar> pass;
    std::vector<BlockTape<Scalar>> blocks;  ///< two per layer, mixer and feed-forward; empty where nothing is kept
    Matrix<accumulator_t<Scalar>> output;   // [T, H] residual stream after the last block
    std::vector<accumulator_t<Scalar>> output_rstd;  // [T]
    Matrix<Scalar> normed;                           // [T, H] what the head sees
    RouterLoad load;                                 ///< of a saved pass: where the routers sent its rows

    /// What is not kept of blocks: two take turns, because one reads the stream that the next one gets.
    std::array<BlockTape<Scalar>, 2> passing;
    std::map<std::type_index, std::unique_ptr<BlockState<Scalar>>> passing_states;
};

}  // namespace moesaic::model
