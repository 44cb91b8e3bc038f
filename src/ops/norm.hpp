// Root mean square normalisation (Zhang and Sennrich, "Root mean square layer normalization", 2019) of the residual
// stream.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"

#include <span>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;
using kernels::ElementwiseKernels;

/// Where the rows of a norm go. y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + epsilon) per row.
template <class Scalar>
struct NormOutput {
    MatrixView<Scalar> y;                    // [T, H]
    MatrixView<accumulator_t<Scalar>> wide;  // [T, H] y before it was rounded to Scalar, or empty
    std::span<accumulator_t<Scalar>> rstd;   // [T], kept for backward
};

/// Normalises x [T, H] with weight [H].
template <class Scalar>
void rms_norm_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> x,
                      std::span<const accumulator_t<Scalar>> weight, double epsilon, const NormOutput<Scalar>& out);

/// sum = x + addend [T, H], and the norm of the sum, in one pass. sum may be x.
template <class Scalar>
void add_and_rms_norm_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> x,
                              MatrixView<const accumulator_t<Scalar>> addend, MatrixView<accumulator_t<Scalar>> sum,
                              std::span<const accumulator_t<Scalar>> weight, double epsilon,
                              const NormOutput<Scalar>& out);

/// dL/dx [T, H] given grad_y = dL/dy [T, H], added to grad_x if `accumulate`; otherwise grad_x may be grad_y. The
/// weight is frozen.
template <class Scalar>
void rms_norm_backward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> grad_y,
                       MatrixView<const accumulator_t<Scalar>> x, std::span<const accumulator_t<Scalar>> weight,
                       std::span<const accumulator_t<Scalar>> rstd, MatrixView<accumulator_t<Scalar>> grad_x,
                       bool accumulate);

}  // namespace moesaic::ops
