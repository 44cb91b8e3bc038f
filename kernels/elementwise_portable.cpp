// Elementwise operations in plain C++ for any CPU: the reference of all other implementations.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/small_floats.hpp"
#include "kernels/detail/entries.hpp"
#include "kernels/elementwise.hpp"

namespace moesaic::kernels::detail::portable {
namespace {

using core::accumulator_t;
using index_t = std::int64_t;

template <class Scalar, class Sum = accumulator_t<Scalar>>
void narrow(index_t n, const Sum* in, Scalar* out) {
    std::transform(in, in + n, out, [](Sum value) { return static_cast<Scalar>(value); });
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void split(index_t n, const Sum* in, Scalar* high, Scalar* low) {
    for (index_t i = 0; i < n; ++i) {
        high[i] = static_cast<Scalar>(in[i]);
        low[i] = static_cast<Scalar>(in[i] - core::widen(high[i]));
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void narrow_rows(index_t rows, index_t cols, const Sum* in, index_t in_stride, Scalar* out, index_t out_stride) {
    for (index_t row = 0; row < rows; ++row) {
        narrow(cols, in + row * in_stride, out + row * out_stride);
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void widen(index_t n, const Scalar* in, Sum* out) {
    std::transform(in, in + n, out, [](Scalar value) { return core::widen(value); });
}

template <class In, class Out>
void transpose(index_t rows, index_t cols, const In* in, index_t in_stride, Out* out, index_t out_stride) {
    constexpr index_t block = 16;  // so that lines of both sides are used up while they are in the cache
    for (index_t row = 0; row < rows; row += block) {
        for (index_t col = 0; col < cols; ++col) {
            for (index_t r = row; r < std::min(rows, row + block); ++r) {
                out[col * out_stride + r] = static_cast<Out>(in[r * in_stride + col]);
            }
        }
    }
}

template <class Sum>
void add(index_t n, const Sum* x, const Sum* y, Sum* sum) {
    for (index_t i = 0; i < n; ++i) {
        sum[i] = x[i] + y[i];
    }
}

template <class Sum>
void scale(index_t n, Sum factor, Sum* x) {
    for (index_t i = 0; i < n; ++i) {
        x[i] *= factor;
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void scale_narrow(index_t n, Sum factor, const Sum* in, Scalar* out) {
    for (index_t i = 0; i < n; ++i) {
        out[i] = static_cast<Scalar>(factor * in[i]);
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void sum_rows(index_t n, index_t count, const Scalar* const* rows, Sum* out) {
    std::fill_n(out, n, Sum(0));
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < n; ++i) {
            out[i] += core::widen(rows[j][i]);
        }
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
Sum dot(index_t n, const Scalar* x, const Scalar* y) {
    Sum sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += core::widen(x[i]) * core::widen(y[i]);
    }
    return sum;
}

template <class Sum>
double sum_of_squares(index_t n, const Sum* x) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return sum;
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void swiglu_forward(index_t n, const Sum* gate, const Sum* up, const Sum* weight, Scalar* out) {
    for (index_t i = 0; i < n; ++i) {
        const Sum silu = gate[i] / (Sum(1) + std::exp(-gate[i]));
        out[i] = static_cast<Scalar>((weight == nullptr ? Sum(1) : weight[i]) * silu * up[i]);
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
Sum swiglu_backward(index_t n, const Sum* grad_out, const Sum* gate, const Sum* up, Sum weight, Scalar* grad_gate,
                    Scalar* grad_up, Scalar* activated) {
    Sum weight_sum = 0;
    for (index_t i = 0; i < n; ++i) {
        const Sum g = gate[i];
        const Sum u = up[i];
        const Sum d = grad_out[i];
        const Sum sigmoid = Sum(1) / (Sum(1) + std::exp(-g));
        const Sum silu = g * sigmoid;
        weight_sum += d * silu * u;
        grad_up[i] = static_cast<Scalar>(weight * d * silu);
        grad_gate[i] = static_cast<Scalar>(weight * d * u * sigmoid * (Sum(1) + g * (Sum(1) - sigmoid)));
        if (activated != nullptr) {
            activated[i] = static_cast<Scalar>(weight * silu * u);
        }
    }
    return weight_sum;
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
Sum rms_norm_forward(index_t n, const Sum* x, const Sum* weight, Sum epsilon, Scalar* narrow_y, Sum* wide_y) {
    Sum squares = 0;
    for (index_t i = 0; i < n; ++i) {
        squares += x[i] * x[i];
    }
    const Sum rstd = Sum(1) / std::sqrt(squares / static_cast<Sum>(n) + epsilon);
    for (index_t i = 0; i < n; ++i) {
        const Sum y = x[i] * rstd * weight[i];
        if (narrow_y != nullptr) {
            narrow_y[i] = static_cast<Scalar>(y);
        }
        if (wide_y != nullptr) {
            wide_y[i] = y;
        }
    }
    return rstd;
}

template <class Sum>
void rms_norm_backward(index_t n, const Sum* grad_y, const Sum* x, const Sum* weight, Sum rstd, const Sum* addend,
                       Sum* grad_x) {
    Sum projection = 0;  // <grad_y * weight, x>
    for (index_t i = 0; i < n; ++i) {
        projection += grad_y[i] * weight[i] * x[i];
    }
    const Sum correction = projection * rstd * rstd / static_cast<Sum>(n);
    for (index_t i = 0; i < n; ++i) {
        const Sum grad = rstd * (grad_y[i] * weight[i] - x[i] * correction);
        grad_x[i] = addend == nullptr ? grad : addend[i] + grad;
    }
}

template <class Sum>
void rotate(index_t half, const Sum* cosine, const Sum* sine, Sum direction, Sum* head) {
    for (index_t i = 0; i < half; ++i) {
        const Sum first = head[i];
        const Sum second = head[i + half];
        head[i] = first * cosine[i] - direction * second * sine[i];
        head[i + half] = second * cosine[i] + direction * first * sine[i];
    }
}

template <class Sum>
Sum largest(index_t n, const Sum* in) {
    Sum result = -std::numeric_limits<Sum>::infinity();
    for (index_t i = 0; i < n; ++i) {
        result = in[i] > result ? in[i] : result;
    }
    return result;
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
Sum exp(index_t n, const Sum* in, Sum score_scale, Sum shift, Sum factor, Scalar* out) {
    Sum sum = 0;
    for (index_t i = 0; i < n; ++i) {
        const Sum value = std::exp(score_scale * in[i] - shift);
        sum += value;
        out[i] = static_cast<Scalar>(factor * value);
    }
    return sum;
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void exp_columns(index_t rows, index_t cols, const Sum* in, index_t in_stride, const Sum* shifts, Scalar* out,
                 index_t out_stride, Sum* sums, Sum* largest) {
    for (index_t c = 0; c < cols; ++c) {
        Sum sum = 0;
        for (index_t r = 0; r < rows; ++r) {
            const Sum value = in[r * in_stride + c];
            const Sum result = std::exp(value - shifts[c]);
            out[r * out_stride + c] = static_cast<Scalar>(result);
            sum += result;
            largest[c] = value > largest[c] ? value : largest[c];
        }
        sums[c] += sum;
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void softmax_backward(index_t n, const Sum* scores, const Sum* grad, Sum score_scale, Sum log_sum, Sum delta,
                      Scalar* probabilities, Scalar* grad_scores) {
    for (index_t i = 0; i < n; ++i) {
        const Sum p = std::exp(score_scale * scores[i] - log_sum);
        probabilities[i] = static_cast<Scalar>(p);
        grad_scores[i] = static_cast<Scalar>(score_scale * p * (grad[i] - delta));
    }
}

constexpr index_t row_elements = 32;  // of codes

/// Where an element of decoded rows lies.
index_t place_of(WeightOrder order, index_t rows, index_t row, index_t i) {
    if (order == WeightOrder::rows) {
        return row * row_elements + i;
    }
    constexpr index_t half = row_elements / 2;
    return (i / half * (rows / 2) + row / 2) * row_elements + i % half * 2 + row % 2;
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void decode_nibbles(index_t rows, const std::uint8_t* codes, const Sum* values, index_t sides, const Sum* scales,
                    const Sum* zeros, WeightOrder order, Scalar* out) {
    constexpr index_t half = row_elements / 2;
    for (index_t row = 0; row < rows; ++row, codes += half, scales += sides) {
        const Sum zero = zeros == nullptr ? Sum(0) : zeros[row];
        for (index_t i = 0; i < half; ++i) {
            out[place_of(order, rows, row, i)] = static_cast<Scalar>((values[codes[i] & 15U] - zero) * scales[0]);
            out[place_of(order, rows, row, half + i)] =
                static_cast<Scalar>((values[codes[i] >> 4U] - zero) * scales[sides - 1]);
        }
    }
}

/// value(code) is a Sum.
template <class Scalar, class Code, class Sum, class Value>
void decode_rows(index_t rows, const Code* codes, const Sum* scales, const Sum* zeros, WeightOrder order, Scalar* out,
                 Value value) {
    for (index_t row = 0; row < rows; ++row) {
        const Sum zero = zeros == nullptr ? Sum(0) : zeros[row];
        for (index_t i = 0; i < row_elements; ++i, ++codes) {
            out[place_of(order, rows, row, i)] = static_cast<Scalar>((value(*codes) - zero) * scales[row]);
        }
    }
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void decode_integers(index_t rows, const std::int8_t* codes, const Sum* scales, const Sum* zeros, WeightOrder order,
                     Scalar* out) {
    decode_rows(rows, codes, scales, zeros, order, out, [](std::int8_t code) { return static_cast<Sum>(code); });
}

template <class Scalar, class Sum = accumulator_t<Scalar>>
void decode_e4m3(index_t rows, const std::uint8_t* codes, const Sum* scales, WeightOrder order, Scalar* out) {
    constexpr const Sum* no_zeros = nullptr;
    decode_rows(rows, codes, scales, no_zeros, order, out,
                [](std::uint8_t code) { return static_cast<Sum>(core::widen_e4m3(code)); });
}

constexpr double least_quantised = 1e-30;
constexpr int largest_code = 127;

template <class Scalar, class Sum = accumulator_t<Scalar>>
Sum quantise(index_t n, const Scalar* in, index_t step, const Sum* factors, std::int8_t* codes) {
    const auto value = [=](index_t i) {
        const Sum plain = core::widen(in[i / row_elements * step + i % row_elements]);
        return factors == nullptr ? plain : plain * factors[i];
    };
    Sum largest = 0;
    Sum not_finite = 0;
    for (index_t i = 0; i < n; ++i) {
        largest = std::max(largest, std::abs(value(i)));
        not_finite += value(i) * Sum(0);
    }
    largest += not_finite;
    if (!(largest > Sum(least_quantised)) || !std::isfinite(largest)) {
        std::fill_n(codes, n, std::int8_t{0});
        return largest <= Sum(least_quantised) ? 0 : largest;
    }
    const Sum inverse = Sum(largest_code) / largest;
    for (index_t i = 0; i < n; ++i) {
        codes[i] = static_cast<std::int8_t>(std::nearbyint(value(i) * inverse));
    }
    return largest / Sum(largest_code);
}

template <class Sum>
void scale_integers(index_t rows, index_t cols, const std::int32_t* in, index_t in_stride, const Sum* of_rows,
                    const Sum* of_cols, bool accumulate, Sum* out, index_t out_stride) {
    for (index_t row = 0; row < rows; ++row, in += in_stride, out += out_stride) {
        const Sum of_row = of_rows == nullptr ? Sum(1) : of_rows[row];
        for (index_t c = 0; c < cols; ++c) {
            const Sum value = static_cast<Sum>(in[c]) * of_row * (of_cols == nullptr ? Sum(1) : of_cols[c]);
            out[c] = accumulate ? out[c] + value : value;
        }
    }
}

template <class Sum>
void adamw(index_t n, const AdamWFactors<Sum>& f, const Sum* gradients, Sum* first_moment, Sum* second_moment,
           const Sum* values, Sum* updated) {
    for (index_t i = 0; i < n; ++i) {
        const Sum gradient = f.clip * gradients[i];
        const Sum first = f.beta1 * first_moment[i] + (Sum(1) - f.beta1) * gradient;
        const Sum second = f.beta2 * second_moment[i] + (Sum(1) - f.beta2) * gradient * gradient;
        first_moment[i] = first;
        second_moment[i] = second;
        updated[i] = f.decay * values[i] - f.step_size * first / (std::sqrt(second) * f.correction + f.epsilon);
    }
}

template <class Scalar>
constexpr ElementwiseKernels<Scalar> describe() {
    using Sum = accumulator_t<Scalar>;
    return {
        .narrow = narrow<Scalar>,
        .widen = widen<Scalar>,
        .split = split<Scalar>,
        .narrow_rows = narrow_rows<Scalar>,
        .transpose_narrow = transpose<Sum, Scalar>,
        .transpose_widen = transpose<Scalar, Sum>,
        .add = add<Sum>,
        .scale = scale<Sum>,
        .scale_narrow = scale_narrow<Scalar>,
        .sum_rows = sum_rows<Scalar>,
        .dot = dot<Scalar>,
        .sum_of_squares = sum_of_squares<Sum>,
        .swiglu_forward = swiglu_forward<Scalar>,
        .swiglu_backward = swiglu_backward<Scalar>,
        .rms_norm_forward = rms_norm_forward<Scalar>,
        .rms_norm_backward = rms_norm_backward<Sum>,
        .rotate = rotate<Sum>,
        .largest = largest<Sum>,
        .exp = exp<Scalar>,
        .exp_columns = exp_columns<Scalar>,
        .softmax_backward = softmax_backward<Scalar>,
        .decode_nibbles = decode_nibbles<Scalar>,
        .decode_integers = decode_integers<Scalar>,
        .decode_e4m3 = decode_e4m3<Scalar>,
        .quantise = quantise<Scalar>,
        .scale_integers = scale_integers<Sum>,
        .adamw = adamw<Sum>,
    };
}

}  // namespace

constinit const ElementwiseKernels<bf16> elementwise_bf16 = describe<bf16>();
constinit const ElementwiseKernels<float> elementwise_float = describe<float>();
constinit const ElementwiseKernels<double> elementwise_double = describe<double>();

}  // namespace moesaic::kernels::detail::portable
