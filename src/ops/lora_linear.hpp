// The one linear projection with a low-rank adapter: y = W x + b + s B A x with frozen W and b (Hu et al., "LoRA",
// 2021).
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/dropout.hpp"
#include "ops/elementwise.hpp"
#include "ops/frozen_product.hpp"
#include "ops/lora.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

struct LinearShape {
    index_t out = 0;
    index_t in = 0;
    bool has_bias = false;
    index_t lora_rank = 0;                 ///< R; 0: without an adapter
    double lora_scale = 0;                 ///< s
    std::optional<WeightFormat> stored{};  ///< how the weights come, if that is known
};

/// Work buffers of linear projections: they grow, and hold nothing from one call to the next.
template <class Scalar>
struct LinearScratch {
    FrozenScratch<Scalar> frozen;
    std::vector<SplitStorage<Scalar>> inputs;    // [T, in] each
    Matrix<accumulator_t<Scalar>> wide_dropped;  // [sum T, in]: inputs of A after dropout, where they have two parts
    Matrix<Scalar> dropped;                      // [sum T, in] the same where they have one, and in backward
    Matrix<accumulator_t<Scalar>> grad_dropped;  // [T, in]
    Matrix<accumulator_t<Scalar>> down_sum;      // [sum T, R]: products with A or B before they are rounded
    Matrix<Scalar> down;                         // [sum T, R]
    Matrix<accumulator_t<Scalar>> back_sum;      // [T, R]
    Matrix<Scalar> back;                         // [T, R]
};

/// LinearScratch of projections that are applied together to the same rows.
void plan_linears(std::span<const LinearShape> batch, bool has_dropout, std::vector<BufferPlan>& buffers);

/// A replicated frozen projection, maybe with an adapter.
///
/// The routers behind it choose experts by what it computes, and a choice is not continuous: with inputs in BF16 some
/// tokens go elsewhere than in FP32. Where KernelSet::operand_parts is 2, forward takes inputs in two BF16 parts, and
/// adapters, which are small, in FP32. Gradients have no such jumps and are computed in BF16.
template <class Scalar>
class LoraLinear {
public:
    using Sum = accumulator_t<Scalar>;

    /// `dropout_module` tells the masks of different projections apart. `kernels` must outlive the object.
    LoraLinear(const kernels::KernelSet& kernels, const LinearShape& shape, std::uint64_t dropout_module);

    /// To be given memory, and filled, before the first call.
    [[nodiscard]] PackedWeights& weight() noexcept { return weight_; }  // [out, in]
    [[nodiscard]] std::span<Sum> bias() noexcept { return bias_; }      // [out], or empty; to be filled
    /// Matrices and gradients stay with the caller, who updates the former and clears the latter.
    void bind(const LoraMatrices<const Sum>& values, const LoraMatrices<Sum>& gradients);
    /// To be called after the matrices changed.
    void update_lora();

    [[nodiscard]] index_t out() const noexcept { return shape_.out; }
    [[nodiscard]] index_t in() const noexcept { return shape_.in; }
    [[nodiscard]] bool is_adapted() const noexcept { return shape_.lora_rank > 0; }

    /// One application: y is overwritten.
    struct Forward {
        const LoraLinear& linear;
        RoundedRows<Scalar> x;  // [T, in]
        MatrixView<Sum> y;      // [T, out]
    };
    /// Applies projections together, so that small ones share the thread team. Results must not overlap.
    static void forward(std::span<const Forward> batch, const Dropout& dropout, LinearScratch<Scalar>& scratch);
    void forward(const RoundedRows<Scalar>& x, MatrixView<Sum> y, const Dropout& dropout,
                 LinearScratch<Scalar>& scratch) const {
        const Forward one{*this, x, y};
        forward({&one, 1}, dropout, scratch);
    }

    /// Given x as in forward, rounded, and dL/dy: accumulates dL/dA and dL/dB, and writes dL/dx, or adds it if
    /// `accumulate`, unless grad_x is empty. x A^T is recomputed, which costs less than keeping it. `dropout` is that
    /// of the forward.
    void backward(MatrixView<const Scalar> x,       // [T, in]
                  MatrixView<const Scalar> grad_y,  // [T, out]
                  MatrixView<Sum> grad_x,           // [T, in] or empty
                  const Dropout& dropout, LinearScratch<Scalar>& scratch, bool accumulate = false) const;

private:
    /// y += s B A x where there is an adapter, with operands of type S.
    template <class S>
    static void add_adapters(std::span<const Forward> batch, const Dropout& dropout, LinearScratch<Scalar>& scratch);
    /// A and B in type S.
    template <class S>
    [[nodiscard]] LoraMatrices<const S> factors() const;
    void add_bias(MatrixView<Sum> y) const;
    /// x, or x after dropout in `storage` [T, in].
    template <class S>
    [[nodiscard]] MatrixView<const S> input_of_a(MatrixView<const S> x, const Dropout& dropout, S* storage) const;
    void add_dropped(MatrixView<const Sum> grad_dropped, const Dropout& dropout, MatrixView<Sum> grad_x) const;

    const kernels::KernelSet& kernels_;
    LinearShape shape_;
    std::uint64_t dropout_module_;
    PackedWeights weight_;            // [out, in]
    std::vector<Sum> bias_;           // [out] or empty
    LoraMatrices<const Sum> values_;  // of the caller
    LoraMatrices<Sum> gradients_;     // the same
    Matrix<Scalar> a_;                // [R, in] rounded, for backward
    Matrix<Scalar> b_;                // [out, R]
};

}  // namespace moesaic::ops
