// Rotary position embedding (Su et al., "RoFormer", 2021), half layout: element i is rotated with element i + D/2.
#pragma once

#include "core/matrix.hpp"
#include "kernels/elementwise.hpp"

#include <span>
#include <vector>

namespace moesaic::model {

using core::index_t;
using kernels::ElementwiseKernels;

/// Cosines and sines of position * theta^(-2i/D) for all positions below a limit.
template <class A>
class RotaryTable {
public:
    /// `head_size` is D; A is the type of angles and heads.
    RotaryTable(index_t head_size, double theta) : head_size_(head_size), theta_(theta) {}

    /// Makes the table cover positions [0, positions).
    void extend(index_t positions);
    /// Rotates the heads of one token in place. heads: [n * D] for any n; `position` is below the table's limit.
    void rotate(const ElementwiseKernels<A>& kernels, std::span<A> heads, index_t position) const {
        apply(kernels, heads, position, A(1));
    }
    /// The inverse rotation, which is also the gradient of `rotate`.
    void rotate_back(const ElementwiseKernels<A>& kernels, std::span<A> heads, index_t position) const {
        apply(kernels, heads, position, A(-1));
    }

private:
    void apply(const ElementwiseKernels<A>& kernels, std::span<A> heads, index_t position, A direction) const;

    index_t head_size_;
    double theta_;
    index_t positions_ = 0;
    std::vector<A> cosines_;  // [positions, D/2]
    std::vector<A> sines_;
};

}  // namespace moesaic::model
