// Operations on rows of elements. Plain data and raw pointers only, no inline functions: this header is included by
// files that are compiled for instruction sets of later CPUs.
#pragma once

#include <cstdint>

namespace moesaic::core {
class bf16;
}

namespace moesaic::kernels {

/// Factors of one AdamW update, the same for all elements.
template <class A>
struct AdamWFactors {
    A beta1;
    A beta2;
    A clip;        ///< factor on gradients
    A step_size;   ///< learning rate / (1 - beta1^t)
    A correction;  ///< 1 / sqrt(1 - beta2^t)
    A epsilon;
    A decay;  ///< 1 - learning rate * weight decay
};

/// One implementation of all operations. T is the type of activations, A that of sums over them. Any n may be zero, no
/// pointer needs alignment. Outputs overlap no input unless the comment says so. Rounding to T is to nearest even, NaN
/// stays NaN. The results for an element don't depend on n; sums over elements depend on n alone.
template <class T, class A>
struct ElementwiseTable {
    using Index = std::int64_t;

    void (*narrow)(Index n, const A* in, T* out);
    void (*widen)(Index n, const T* in, A* out);
    /// high = T(in), low = T(in - high): their sum has twice the digits of T. Of an A as narrow as T, low is zero.
    void (*split)(Index n, const A* in, T* high, T* low);
    /// out[r][c] = T(in[r][c]) for in [rows, cols].
    void (*narrow_rows)(Index rows, Index cols, const A* in, Index in_stride, T* out, Index out_stride);
    /// out[c][r] = in[r][c] for in [rows, cols].
    void (*transpose_narrow)(Index rows, Index cols, const A* in, Index in_stride, T* out, Index out_stride);
    void (*transpose_widen)(Index rows, Index cols, const T* in, Index in_stride, A* out, Index out_stride);

    /// sum = x + y; it may be one of them.
    void (*add)(Index n, const A* x, const A* y, A* sum);
    /// x *= factor.
    void (*scale)(Index n, A factor, A* x);
    /// out = T(factor * in).
    void (*scale_narrow)(Index n, A factor, const A* in, T* out);
    /// out[i] = rows[0][i] + rows[1][i] + ... in this order; zeros if there are none.
    void (*sum_rows)(Index n, Index count, const T* const* rows, A* out);
    /// Sum of x[i] * y[i].
    A (*dot)(Index n, const T* x, const T* y);
    double (*sum_of_squares)(Index n, const A* x);

    /// out[i] = T(weight[i] * silu(gate[i]) * up[i]); no weight stands for 1.
    void (*swiglu_forward)(Index n, const A* gate, const A* up, const A* weight, T* out);
    /// Of out = weight * silu(gate) * up with one weight: the gradients of gate and up given grad_out, out itself as
    /// `activated` unless that is null, and as result the gradient of the weight.
    A(*swiglu_backward)
    (Index n, const A* grad_out, const A* gate, const A* up, A weight, T* grad_gate, T* grad_up, T* activated);

    /// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + epsilon), which is the result. Written to `narrow_y`,
    /// `wide_y`, or both; a null pointer says no. wide_y may be x.
    A (*rms_norm_forward)(Index n, const A* x, const A* weight, A epsilon, T* narrow_y, A* wide_y);
    /// grad_x = addend + the gradient of x given grad_y; no addend stands for 0. grad_x may be addend or grad_y.
    void (*rms_norm_backward)(Index n, const A* grad_y, const A* x, const A* weight, A rstd, const A* addend,
                              A* grad_x);
    /// Rotates element i with element i + half by the angle of cosine[i], direction * sine[i], in place.
    void (*rotate)(Index half, const A* cosine, const A* sine, A direction, A* head);

    /// The largest element that is a number; minus infinity if there is none.
    A (*largest)(Index n, const A* in);
    /// Sum of exp(in[i] - shift).
    double (*sum_of_exp)(Index n, const A* in, A shift);
    /// out[i] = T(factor * exp(scale * in[i] - shift)). The result is the sum of exp(scale * in[i] - shift) before
    /// rounding. out may be in, where the types are the same.
    A (*exp)(Index n, const A* in, A scale, A shift, A factor, T* out);
    /// Backward of the softmax of scale * scores, whose probabilities are p = exp(scale * score - log_sum):
    /// probabilities = T(p), grad_scores = T(scale * p * (grad - delta)).
    void (*softmax_backward)(Index n, const A* scores, const A* grad, A scale, A log_sum, A delta, T* probabilities,
                             T* grad_scores);

    /// One update of moments and values. `updated` may be `values`.
    void (*adamw)(Index n, const AdamWFactors<A>& factors, const A* gradients, A* first_moment, A* second_moment,
                  const A* values, A* updated);
};

}  // namespace moesaic::kernels
