// Operations on rows of elements. Plain data and raw pointers only, no inline functions: this header is included by
// files that are compiled for instruction sets of later CPUs.
#pragma once

#include <cstdint>

namespace moesaic::core {
class bf16;
}

namespace moesaic::kernels {

/// How decoded weights lie: [rows][32]; or, as instructions want the right operand whose k the rows are that multiply
/// pairs along k, [2][rows / 2][16][2], half a row after the other.
enum class WeightOrder : std::uint8_t { rows, pairs };

/// Factors of one AdamW update, the same for all elements.
template <class Sum>
struct AdamWFactors {
    Sum beta1;
    Sum beta2;
    Sum clip;        ///< factor on gradients
    Sum step_size;   ///< learning rate / (1 - beta1^t)
    Sum correction;  ///< 1 / sqrt(1 - beta2^t)
    Sum epsilon;
    Sum decay;  ///< 1 - learning rate * weight decay
};

/// One implementation of all operations. Scalar is the type of activations, Sum that of sums over them. Any n may be
/// zero, no pointer needs alignment. Outputs overlap no input unless the comment says so. Rounding to Scalar is to
/// nearest even, NaN stays NaN. The results for an element don't depend on n; sums over elements depend on n alone.
template <class Scalar, class Sum>
struct ElementwiseTable {
    using Index = std::int64_t;

    void (*narrow)(Index n, const Sum* in, Scalar* out);
    void (*widen)(Index n, const Scalar* in, Sum* out);
    /// high = Scalar(in), low = Scalar(in - high): their sum has twice the digits of Scalar. Of a Sum as narrow as
    /// Scalar, low is zero.
    void (*split)(Index n, const Sum* in, Scalar* high, Scalar* low);
    /// out[r][c] = Scalar(in[r][c]) for in [rows, cols].
    void (*narrow_rows)(Index rows, Index cols, const Sum* in, Index in_stride, Scalar* out, Index out_stride);
    /// out[c][r] = in[r][c] for in [rows, cols].
    void (*transpose_narrow)(Index rows, Index cols, const Sum* in, Index in_stride, Scalar* out, Index out_stride);
    void (*transpose_widen)(Index rows, Index cols, const Scalar* in, Index in_stride, Sum* out, Index out_stride);

    /// sum = x + y; it may be one of them.
    void (*add)(Index n, const Sum* x, const Sum* y, Sum* sum);
    /// x *= factor.
    void (*scale)(Index n, Sum factor, Sum* x);
    /// out = Scalar(factor * in).
    void (*scale_narrow)(Index n, Sum factor, const Sum* in, Scalar* out);
    /// out[i] = rows[0][i] + rows[1][i] + ... in this order; zeros if there are none.
    void (*sum_rows)(Index n, Index count, const Scalar* const* rows, Sum* out);
    /// Sum of x[i] * y[i].
    Sum (*dot)(Index n, const Scalar* x, const Scalar* y);
    double (*sum_of_squares)(Index n, const Sum* x);

    /// out[i] = Scalar(weight[i] * silu(gate[i]) * up[i]); no weight stands for 1.
    void (*swiglu_forward)(Index n, const Sum* gate, const Sum* up, const Sum* weight, Scalar* out);
    /// Of out = weight * silu(gate) * up with one weight: the gradients of gate and up given grad_out, out itself as
    /// `activated` unless that is null, and as result the gradient of the weight.
    Sum (*swiglu_backward)(Index n, const Sum* grad_out, const Sum* gate, const Sum* up, Sum weight, Scalar* grad_gate,
                           Scalar* grad_up, Scalar* activated);

    /// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + epsilon), which is the result. Written to `narrow_y`,
    /// `wide_y`, or both; a null pointer says no. wide_y may be x.
    Sum (*rms_norm_forward)(Index n, const Sum* x, const Sum* weight, Sum epsilon, Scalar* narrow_y, Sum* wide_y);
    /// grad_x = addend + the gradient of x given grad_y; no addend stands for 0. grad_x may be addend or grad_y.
    void (*rms_norm_backward)(Index n, const Sum* grad_y, const Sum* x, const Sum* weight, Sum rstd, const Sum* addend,
                              Sum* grad_x);
    /// Rotates element i with element i + half by the angle of cosine[i], direction * sine[i], in place.
    void (*rotate)(Index half, const Sum* cosine, const Sum* sine, Sum direction, Sum* head);

    /// The largest element that is a number; minus infinity if there is none.
    Sum (*largest)(Index n, const Sum* in);
    /// out[i] = Scalar(factor * exp(scale * in[i] - shift)). The result is the sum of exp(scale * in[i] - shift) before
    /// rounding. out may be in, where the types are the same.
    Sum (*exp)(Index n, const Sum* in, Sum scale, Sum shift, Sum factor, Scalar* out);
    /// out[r][c] = Scalar(exp(in[r][c] - shifts[c])) for in [rows, cols]. sums[c] grows by the sum of column c of these
    /// before rounding; largest[c] becomes the largest of itself and those elements of in's column c that are numbers.
    void (*exp_columns)(Index rows, Index cols, const Sum* in, Index in_stride, const Sum* shifts, Scalar* out,
                        Index out_stride, Sum* sums, Sum* largest);
    /// Backward of the softmax of scale * scores, whose probabilities are p = exp(scale * score - log_sum):
    /// probabilities = Scalar(p), grad_scores = Scalar(scale * p * (grad - delta)).
    void (*softmax_backward)(Index n, const Sum* scores, const Sum* grad, Sum scale, Sum log_sum, Sum delta,
                             Scalar* probabilities, Scalar* grad_scores);

    // Rows of 32 weights from their codes, each row with a scale and a zero point: out = Scalar((value - zero) *
    // scale). No zeros stand for 0. Pairs need an even number of rows.

    /// Codes [rows, 16], that of element i in the lower half of byte i and that of element 16 + i in its upper half;
    /// values [16] by code; scales [rows, sides], sides 2: one for each half of a row.
    void (*decode_nibbles)(Index rows, const std::uint8_t* codes, const Sum* values, Index sides, const Sum* scales,
                           const Sum* zeros, WeightOrder order, Scalar* out);
    /// Codes [rows, 32] are whole numbers; scales [rows].
    void (*decode_integers)(Index rows, const std::int8_t* codes, const Sum* scales, const Sum* zeros,
                            WeightOrder order, Scalar* out);
    /// Codes [rows, 32] are FP8 E4M3 and no NaN; scales [rows].
    void (*decode_e4m3)(Index rows, const std::uint8_t* codes, const Sum* scales, WeightOrder order, Scalar* out);

    // Products of whole numbers: rows of activations are rounded to 8 bits, and sums become numbers again.

    /// codes[i] = the whole number nearest to x / scale with x = in[i] * factors[i] and scale = largest |x| / 127,
    /// which is the result; zeros and 0 if no |x| is above 1e-30, zeros and a result that is not finite if an x is not.
    /// Every 32 elements of `in` begin `step` elements after those before. No factors stand for 1.
    Sum (*quantise)(Index n, const Scalar* in, Index step, const Sum* factors, std::int8_t* codes);
    /// out[r][c] = in[r][c] * of_rows[r] * of_cols[c] for in [rows, cols], added to out if `accumulate`. No factors
    /// stand for 1.
    void (*scale_integers)(Index rows, Index cols, const std::int32_t* in, Index in_stride, const Sum* of_rows,
                           const Sum* of_cols, bool accumulate, Sum* out, Index out_stride);

    /// One update of moments and values. `updated` may be `values`.
    void (*adamw)(Index n, const AdamWFactors<Sum>& factors, const Sum* gradients, Sum* first_moment,
                  Sum* second_moment, const Sum* values, Sum* updated);
};

}  // namespace moesaic::kernels
