// Sequences of tokens as the decoder takes them: packed one after the other, without padding.
#pragma once

#include "core/matrix.hpp"

#include <cstdint>
#include <vector>

namespace moesaic::ops {

using core::index_t;

/// A label that is not trained on, as in PyTorch and transformers.
inline constexpr std::int32_t ignored_label = -100;

/// Sequence s has rows [offsets[s], offsets[s + 1]). An empty batch has offsets {0}.
struct TokenBatch {
    std::vector<std::int32_t> tokens;     ///< [T]
    std::vector<std::int32_t> labels;     ///< [T], the label of a position is its own token or ignored_label
    std::vector<index_t> positions;       ///< [T], from 0 in each sequence
    std::vector<index_t> offsets{0};      ///< [S + 1]
    std::vector<index_t> sequence_ids{};  ///< [S], which sequences of the data these are, for dropout
    index_t step = 0;                     ///< optimizer step, for dropout

    [[nodiscard]] index_t rows() const noexcept { return static_cast<index_t>(tokens.size()); }
    [[nodiscard]] index_t sequences() const noexcept { return static_cast<index_t>(offsets.size()) - 1; }
};

/// A row whose next token is trained on.
struct Target {
    index_t row;
    index_t sequence;
    std::int32_t label;  ///< the next token
};

/// [T] which token of the optimizer step each row is: its sequence and its position there.
[[nodiscard]] std::vector<std::uint64_t> identities_of(const TokenBatch& batch);

/// All targets of a batch in row order: the shift by one happens here.
[[nodiscard]] std::vector<Target> targets_of(const TokenBatch& batch);

}  // namespace moesaic::ops
