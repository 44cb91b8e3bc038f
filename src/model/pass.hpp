// What is the same for all layers in one pass through the model.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "ops/dropout.hpp"
#include "ops/head_transform.hpp"
#include "ops/rope.hpp"
#include "ops/token_batch.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;

/// Of this rank's rows. A forward pass makes it, the backward pass reads it.
template <class Scalar>
struct Pass {
    using Sum = accumulator_t<Scalar>;

    ops::TokenBatch batch;
    bool is_saved = false;  ///< a backward pass may follow: with dropout
    double dropout_probability = 0;
    std::uint64_t dropout_seed = 0;
    std::vector<std::uint64_t> tokens;  ///< [T] which token of the optimizer step each row is; empty without dropout
    std::shared_ptr<const ops::RotaryTable<Sum>> rotary;
    std::vector<index_t> rows_of_ranks;  ///< [tensor ranks] rows of each, where there is one expert group

    [[nodiscard]] index_t rows() const noexcept { return batch.rows(); }
    /// Active on all ranks alike, also on those without rows: the exchange of rows depends on it.
    [[nodiscard]] ops::Dropout dropout() const noexcept {
        return {is_saved ? dropout_probability : 0, dropout_seed, batch.step, tokens};
    }
    [[nodiscard]] ops::Rotation<Sum> rotation() const noexcept { return {batch.positions, *rotary}; }
};

}  // namespace moesaic::model
