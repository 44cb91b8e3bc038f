// Products of frozen weight matrices with token rows in both directions.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/strip_products.hpp"
#include "ops/weights/packed_weights.hpp"
#include "ops/weights/weight_stream.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::Matrix;
using core::MatrixView;

enum class Direction : std::uint8_t { forward, backward };

/// Forward: y [T, out] = x W^T for x [T, in]. Backward: y [T, in] = x W for x [T, out], a gradient.
template <class Scalar>
struct FrozenProduct {
    const PackedWeights& weight;  // W [out, in]
    Direction direction = Direction::forward;
    MatrixView<const Scalar> x;
    MatrixView<accumulator_t<Scalar>> y;
    bool accumulate = false;       ///< adds to y instead of overwriting it
    MatrixView<const Scalar> low;  ///< forward: [T, in], what rounding took from x and is to be added; empty for none
};

/// Work buffers that grow and are kept between calls.
template <class Scalar>
struct FrozenScratch {
    struct OfThread {
        core::Buffer<accumulator_t<Scalar>> sums;
        core::Buffer<std::byte> panel;
        RightPanels panels;
        WeightStream<Scalar> weights;
        core::Buffer<Scalar> unpacked;  ///< weights of products with few rows
    };
    std::vector<core::Buffer<std::byte>> operands;  ///< packed token rows, two for each product: of x and of low
    std::vector<OfThread> of_thread;
};

/// FrozenScratch::of_thread for weights [out, in].
void plan_frozen_threads(std::string_view name, index_t out, index_t in, std::vector<BufferPlan>& buffers);

/// Computes independent products together, so that small ones share the thread team. Results must not overlap; they do
/// not depend on the number of threads.
template <class Scalar>
void multiply(const kernels::KernelSet& kernels, std::span<const FrozenProduct<Scalar>> batch,
              FrozenScratch<Scalar>& scratch);

}  // namespace moesaic::ops
