// Root mean square normalisation (Zhang and Sennrich, "Root mean square layer normalization", 2019).
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <span>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;

/// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + epsilon) per row. In: type of x, the accumulator type for the
/// residual stream or T for heads. x, y: [T, N]; weight: [N]; rstd: [T], kept for backward.
template <class In, class T>
void rms_norm_forward(MatrixView<const In> x, std::span<const accumulator_t<T>> weight, double epsilon, MatrixView<T> y,
                      std::span<accumulator_t<T>> rstd);

/// Adds dL/dx to grad_x [T, N], given grad_y = dL/dy [T, N]. The weight is frozen.
template <class In, class A>
void rms_norm_backward(MatrixView<const A> grad_y, MatrixView<const In> x, std::span<const A> weight,
                       std::span<const A> rstd, MatrixView<A> grad_x);

}  // namespace moesaic::model
