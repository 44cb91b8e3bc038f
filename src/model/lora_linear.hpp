// The one linear projection with a low-rank adapter: y = W x + s B A x with frozen W (Hu et al., "LoRA", 2021).
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/gemm.hpp"

#include <span>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// A projection from K to N features. Without adapter (rank 0) `a`, `b` and the gradients are empty.
template <class T>
struct LoraLinear {
    MatrixView<const T> weight{};           // [N, K]
    MatrixView<const T> a{};                // [R, K]
    MatrixView<const T> b{};                // [N, R]
    accumulator_t<T> scale = 0;             // s
    MatrixView<accumulator_t<T>> grad_a{};  // [R, K], accumulated into
    MatrixView<accumulator_t<T>> grad_b{};  // [N, R], accumulated into

    [[nodiscard]] index_t rank() const noexcept { return a.rows(); }
};

/// One application of a projection. `accumulate` adds to the result instead of overwriting it.
template <class T>
struct LoraForward {
    LoraLinear<T> linear;
    MatrixView<const T> x;           // [M, K]
    MatrixView<accumulator_t<T>> y;  // [M, N]
    bool accumulate = false;
};

/// The backward pass of one application: accumulates dL/dA and dL/dB, and dL/dx if `grad_x` is not empty.
template <class T>
struct LoraBackward {
    LoraLinear<T> linear;
    MatrixView<const T> x;                // [M, K], as in forward
    MatrixView<const T> grad_y;           // [M, N]
    MatrixView<accumulator_t<T>> grad_x;  // [M, K]
    bool accumulate = false;              // of grad_x
};

/// Work buffers that grow and are kept between calls.
template <class T>
struct LoraScratch {
    Matrix<accumulator_t<T>> down_sum;  // [sum M, R]: products with A or B before they are rounded
    Matrix<T> down;                     // [sum M, R]
    Matrix<accumulator_t<T>> back_sum;
    Matrix<T> back;
};

/// Applies independent projections together, so that small ones share the thread team. Results of different entries
/// must not overlap.
template <class T>
void lora_linear_forward(const kernels::KernelSet& kernels, std::span<const LoraForward<T>> batch,
                         LoraScratch<T>& scratch);

/// Backward of `lora_linear_forward`; x A^T is recomputed, which costs less than keeping it.
template <class T>
void lora_linear_backward(const kernels::KernelSet& kernels, std::span<const LoraBackward<T>> batch,
                          LoraScratch<T>& scratch);

}  // namespace moesaic::model
