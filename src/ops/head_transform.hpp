// What happens to projected vectors before attention: norm, bound, rotation; forward and backward.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/rope.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// Over what queries and keys are normalised before they are rotated.
enum class HeadNorm : std::uint8_t { none, head, all_heads };

/// What norm and bound of projected vectors keep.
template <class Scalar>
struct HeadTape {
    Matrix<Scalar> raw;                       // [T, n * D] before the norm
    std::vector<accumulator_t<Scalar>> rstd;  // [T * n], or [T] of a norm over all heads
};

struct HeadTransformSettings {
    HeadNorm norm = HeadNorm::none;
    index_t norm_size = 0;  ///< elements of the norm's weight: of a head, or of all heads together
    double epsilon = 0;
    double clip = 0;  ///< 0: no bound
    bool rotates = false;
    RotaryRange part;

    /// Backward needs what was there before norm and bound.
    [[nodiscard]] bool keeps_input() const { return norm != HeadNorm::none || clip > 0; }
    [[nodiscard]] index_t norms(index_t cols) const { return norm == HeadNorm::none ? 0 : cols / norm_size; }
};

/// Adds HeadTape of [T, cols] to `state`, and the work matrix of `backward` to `scratch`, as
/// attention.attended.
void plan_head_transform(const HeadTransformSettings& settings, index_t cols, std::vector<BufferPlan>& state,
                         std::vector<BufferPlan>& scratch);

/// Positions of the rows, and the table to rotate by.
template <class Sum>
struct Rotation {
    std::span<const index_t> positions;  // [T]
    const RotaryTable<Sum>& table;
};

template <class Scalar>
class HeadTransform {
public:
    using Sum = accumulator_t<Scalar>;

    HeadTransform(const kernels::KernelSet& kernels, const HeadTransformSettings& settings);
    /// The weight of the norm [norm_size], to be filled; empty if there is none.
    [[nodiscard]] std::span<Sum> weight() noexcept { return weight_; }

    /// out [T, n * D] = rotated(clipped(norm(heads))). Overwrites `heads` [T, n * D]; `tape` keeps them as Scalar where
    /// backward needs them.
    void forward(const Rotation<Sum>& rotation, MatrixView<Sum> heads, HeadTape<Scalar>& tape,
                 MatrixView<Scalar> out) const;
    /// From the gradient of what forward returned that of its input, `out` [T, n * D]. Overwrites `grad` [T, n * D] and
    /// `work`.
    void backward(const Rotation<Sum>& rotation, const HeadTape<Scalar>& tape, MatrixView<Sum> grad, Matrix<Sum>& work,
                  MatrixView<Scalar> out) const;

private:
    /// Clears gradients [n * D] of elements that were bounded; `input` are the values before the norm.
    void clip_backward(const Sum* input, const Sum* rstd, std::span<Sum> grad) const;

    const kernels::KernelSet& kernels_;
    HeadTransformSettings settings_;
    std::vector<Sum> weight_;  // [norm_size]
};

}  // namespace moesaic::ops
