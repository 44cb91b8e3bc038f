// Rotary position embedding (Su et al., "RoFormer", 2021), half layout: element i is rotated with element i + D/2.
#pragma once

#include "core/matrix.hpp"

#include <span>
#include <vector>

namespace moesaic::model {

using core::index_t;
using core::MatrixView;

/// Cosines and sines of position * theta^(-2i/D) for all positions below a limit.
template <class A>
class RotaryTable {
public:
    /// `head_size` is D; A is the type of angles and heads.
    RotaryTable(index_t head_size, double theta) : head_size_(head_size), theta_(theta) {}

    /// Makes the table cover positions [0, positions).
    void extend(index_t positions);
    /// Rotates each head of each row in place. heads: [T, n * D] for any n; positions: [T], below the table's limit.
    void rotate(MatrixView<A> heads, std::span<const index_t> positions) const { apply(heads, positions, A(1)); }
    /// The inverse rotation, which is also the gradient of `rotate`.
    void rotate_back(MatrixView<A> heads, std::span<const index_t> positions) const { apply(heads, positions, A(-1)); }

private:
    void apply(MatrixView<A> heads, std::span<const index_t> positions, A direction) const;

    index_t head_size_;
    double theta_;
    index_t positions_ = 0;
    std::vector<A> cosines_;  // [positions, D/2]
    std::vector<A> sines_;
};

}  // namespace moesaic::model
