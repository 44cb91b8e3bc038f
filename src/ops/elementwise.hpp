// Elementwise operations on matrices, rows in parallel; forward and backward side by side.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/kernel_set.hpp"

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;
using kernels::ElementwiseKernels;

/// out = Scalar(in), same shape; rounds to nearest even where Scalar is narrower.
template <class Scalar>
void convert(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> in,
             MatrixView<Scalar> out);

/// out = in, same shape.
template <class Scalar>
void widen(const ElementwiseKernels<Scalar>& kernels, MatrixView<const Scalar> in,
           MatrixView<accumulator_t<Scalar>> out);

/// A matrix product's operand from values of the accumulator type: `in` itself if Scalar is that type, otherwise `in`
/// rounded into `storage`, which is resized to fit.
template <class Scalar>
[[nodiscard]] MatrixView<const Scalar> as_operand(const ElementwiseKernels<Scalar>& kernels,
                                                  MatrixView<const accumulator_t<Scalar>> in, Matrix<Scalar>& storage);

/// What products read: rows rounded to Scalar, and the rows themselves where operands have two parts.
template <class Scalar>
struct RoundedRows {
    RoundedRows(MatrixView<const Scalar> rounded_in, MatrixView<const accumulator_t<Scalar>> exact_in = {})
        : rounded(rounded_in), exact(exact_in) {}

    MatrixView<const Scalar> rounded;
    MatrixView<const accumulator_t<Scalar>> exact;  ///< may be empty where KernelSet::operand_parts is 1
};

/// Two operands whose sum is x: x rounded to Scalar, and what rounding took from it, rounded. Products of Scalar with
/// both have twice the digits of Scalar.
template <class Scalar>
struct SplitOperand {
    MatrixView<const Scalar> high;
    MatrixView<const Scalar> low;  ///< empty where `high` is all
};

/// What the parts of an operand are stored in; grows and is kept.
template <class Scalar>
struct SplitStorage {
    Matrix<Scalar> high;
    Matrix<Scalar> low;
};

/// In as many parts as the kernels are to have; one part is the rounded rows as they are.
template <class Scalar>
[[nodiscard]] SplitOperand<Scalar> split(const kernels::KernelSet& kernels, const RoundedRows<Scalar>& rows,
                                         SplitStorage<Scalar>& storage);

/// Gated activation of an expert with the routing weight folded in: out[t, i] = weight[t] * silu(gate[t, i]) * up[t,
/// i]. gate, up, out: [T, I]; weight: [T], or null for 1. In is Scalar or its sums.
template <class Scalar, class In>
void swiglu_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const In> gate, MatrixView<const In> up,
                    const accumulator_t<Scalar>* weight, MatrixView<Scalar> out);

/// Given grad_out = dL/dout [T, I]: dL/dgate, dL/dup [T, I], and dL/dweight [T] where weight is not null.
template <class Scalar>
void swiglu_backward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> grad_out,
                     MatrixView<const Scalar> gate, MatrixView<const Scalar> up, const accumulator_t<Scalar>* weight,
                     MatrixView<Scalar> grad_gate, MatrixView<Scalar> grad_up, accumulator_t<Scalar>* grad_weight);

}  // namespace moesaic::ops
