// Element-wise operations on matrices, rows in parallel; forward and backward side by side.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// out = T(in), same shape; rounds to nearest even where T is narrower.
template <class T>
void convert(MatrixView<const accumulator_t<T>> in, MatrixView<T> out);

/// A matrix product's operand from values of the accumulator type: `in` itself if T is that type, otherwise `in`
/// rounded into `storage`, which is resized to fit.
template <class T>
[[nodiscard]] MatrixView<const T> as_operand(MatrixView<const accumulator_t<T>> in, Matrix<T>& storage);

/// sum += addend, same shape.
template <class A>
void add(MatrixView<const A> addend, MatrixView<A> sum);

/// Gated activation of an expert with the routing weight folded in: out[t, i] = weight[t] * silu(gate[t, i]) * up[t,
/// i]. gate, up, out: [T, I]; weight: [T], or null for 1.
template <class T>
void swiglu_forward(MatrixView<const T> gate, MatrixView<const T> up, const accumulator_t<T>* weight,
                    MatrixView<T> out);

/// Given grad_out = dL/dout [T, I]: dL/dgate, dL/dup [T, I], and dL/dweight [T] where weight is not null.
template <class T>
void swiglu_backward(MatrixView<const accumulator_t<T>> grad_out, MatrixView<const T> gate, MatrixView<const T> up,
                     const accumulator_t<T>* weight, MatrixView<T> grad_gate, MatrixView<T> grad_up,
                     accumulator_t<T>* grad_weight);

}  // namespace moesaic::model
