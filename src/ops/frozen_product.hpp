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
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::Matrix;
using core::MatrixView;

enum class Direction : std::uint8_t { forward, backward };

/// Token rows of backward products as kernels read them, for those who compute them block by block.
template <class Scalar>
class PackedRows {
public:
    /// [tokens, columns]; contents are unspecified until each block has been stored.
    void resize(const kernels::KernelSet& kernels, index_t tokens, index_t columns);
    /// Stores the transpose of `block` [columns, tokens], whole blocks of 32 x 32 but at the edges. Threads may do so
    /// at the same time.
    void store(const kernels::KernelSet& kernels, index_t first_column, index_t first_token,
               MatrixView<const Scalar> block) const;

    [[nodiscard]] index_t tokens() const { return tokens_; }
    [[nodiscard]] index_t columns() const { return columns_; }
    [[nodiscard]] const Strips& strips() const { return strips_; }

private:
    core::Buffer<std::byte> storage_;
    Strips strips_;
    index_t tokens_ = 0;
    index_t columns_ = 0;
};

/// Features of a forward product that one thread computes for a token, in ascending order, where results are taken:
/// what is added up over such a range doesn't depend on the number of threads.
inline constexpr index_t features_of_range = 1024;

/// Takes results of a forward product block by block while they are in the L1 cache: `block` [features, tokens] of at
/// most 32 x 32, which it may change. Threads call it at the same time.
template <class Scalar>
using TakeBlock =
    std::function<void(index_t first_feature, index_t first_token, MatrixView<accumulator_t<Scalar>> block)>;

/// Forward: y [T, out] = x W^T for x [T, in], or its first columns. Backward: y [T, in] = x W for x [T, out], a
/// gradient.
template <class Scalar>
struct FrozenProduct {
    const PackedWeights& weight;  // W [out, in]
    Direction direction = Direction::forward;
    MatrixView<const Scalar> x;
    MatrixView<accumulator_t<Scalar>> y;
    bool accumulate = false;       ///< adds to y instead of overwriting it
    MatrixView<const Scalar> low;  ///< forward: [T, in], what rounding took from x and is to be added; empty for none
    TakeBlock<Scalar> take = {};   ///< forward: gets the results in place of y
    const PackedRows<Scalar>* packed_x = nullptr;  ///< backward: in place of x
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
