// Elementwise operations on matrices, rows in parallel; forward and backward side by side.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;
using kernels::ElementwiseKernels;

/// out = T(in), same shape; rounds to nearest even where T is narrower.
template <class T>
void convert(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> in, MatrixView<T> out);

/// out = in, same shape.
template <class T>
void widen(const ElementwiseKernels<T>& kernels, MatrixView<const T> in, MatrixView<accumulator_t<T>> out);

/// A matrix product's operand from values of the accumulator type: `in` itself if T is that type, otherwise `in`
/// rounded into `storage`, which is resized to fit.
template <class T>
[[nodiscard]] MatrixView<const T> as_operand(const ElementwiseKernels<T>& kernels,
                                             MatrixView<const accumulator_t<T>> in, Matrix<T>& storage);

/// Two operands whose sum is x: x itself and nothing if T is x's type, otherwise x rounded to T, and what rounding took
/// from it, rounded. Products of T with both have twice the digits of T.
template <class T>
struct SplitOperand {
    MatrixView<const T> high;
    MatrixView<const T> low;  ///< empty where `high` is all
};

/// What the parts of an operand are stored in; grows and is kept.
template <class T>
struct SplitStorage {
    Matrix<T> high;
    Matrix<T> low;
};

template <class T>
[[nodiscard]] SplitOperand<T> split(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> in,
                                    SplitStorage<T>& storage);

/// Gated activation of an expert with the routing weight folded in: out[t, i] = weight[t] * silu(gate[t, i]) * up[t,
/// i]. gate, up, out: [T, I]; weight: [T], or null for 1.
template <class T>
void swiglu_forward(const ElementwiseKernels<T>& kernels, MatrixView<const T> gate, MatrixView<const T> up,
                    const accumulator_t<T>* weight, MatrixView<T> out);

/// Given grad_out = dL/dout [T, I]: dL/dgate, dL/dup [T, I], and dL/dweight [T] where weight is not null.
template <class T>
void swiglu_backward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> grad_out,
                     MatrixView<const T> gate, MatrixView<const T> up, const accumulator_t<T>* weight,
                     MatrixView<T> grad_gate, MatrixView<T> grad_up, accumulator_t<T>* grad_weight);

}  // namespace moesaic::ops
