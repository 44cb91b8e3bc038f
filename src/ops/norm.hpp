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
template <class T>
struct NormOutput {
    MatrixView<T> y;                    // [T, N]
    MatrixView<accumulator_t<T>> wide;  // [T, N] y before it was rounded to T, or empty
    std::span<accumulator_t<T>> rstd;   // [T], kept for backward
};

/// Normalises x [T, N] with weight [N].
template <class T>
void rms_norm_forward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> x,
                      std::span<const accumulator_t<T>> weight, double epsilon, const NormOutput<T>& out);

/// sum = x + addend [T, N], and the norm of the sum, in one pass. sum may be x.
template <class T>
void add_and_rms_norm_forward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> x,
                              MatrixView<const accumulator_t<T>> addend, MatrixView<accumulator_t<T>> sum,
                              std::span<const accumulator_t<T>> weight, double epsilon, const NormOutput<T>& out);

/// dL/dx [T, N] given grad_y = dL/dy [T, N], added to grad_x if `accumulate`. The weight is frozen.
template <class T>
void rms_norm_backward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> grad_y,
                       MatrixView<const accumulator_t<T>> x, std::span<const accumulator_t<T>> weight,
                       std::span<const accumulator_t<T>> rstd, MatrixView<accumulator_t<T>> grad_x, bool accumulate);

}  // namespace moesaic::ops
