// A tape owns a forward pass: what backward reads, and nothing else does it read.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "model/block.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "model/pass.hpp"

#include <array>
#include <map>
#include <memory>
#include <typeindex>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::Matrix;

/// What is kept of one block. T: rows of this rank.
template <class Scalar>
struct BlockTape {
    Matrix<accumulator_t<Scalar>> stream;     // [T, H] residual stream before the block's norm
    std::vector<accumulator_t<Scalar>> rstd;  // [T]
    Matrix<Scalar> input;                     // [T, H] after the norm, rounded
    std::unique_ptr<BlockState<Scalar>> state;
};

/// Any number of tapes may be open at once. One that is used again keeps its buffers.
template <class Scalar>
struct Tape {
    Pass<Scalar> pass;
    std::vector<BlockTape<Scalar>> blocks;  ///< two per layer, mixer and feed-forward; empty where nothing is kept
    Matrix<accumulator_t<Scalar>> output;   // [T, H] residual stream after the last block
    std::vector<accumulator_t<Scalar>> output_rstd;  // [T]
    Matrix<Scalar> normed;                           // [T, H] what the head sees
    RouterLoad load;                                 ///< of a saved pass: where the routers sent its rows

    /// Of blocks of which nothing is kept: two take turns, because one reads the stream that the next one gets.
    std::array<BlockTape<Scalar>, 2> passing;
    std::map<std::type_index, std::unique_ptr<BlockState<Scalar>>> passing_states;
};

}  // namespace moesaic::model
