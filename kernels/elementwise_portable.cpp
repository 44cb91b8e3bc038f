// Elementwise operations in plain C++ for any CPU: the reference of all other implementations.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/detail/entries.hpp"
#include "kernels/elementwise.hpp"

namespace moesaic::kernels::detail::portable {
namespace {

using core::accumulator_t;
using index_t = std::int64_t;

template <class T, class A = accumulator_t<T>>
void narrow(index_t n, const A* in, T* out) {
    std::transform(in, in + n, out, [](A value) { return static_cast<T>(value); });
}

template <class T, class A = accumulator_t<T>>
void split(index_t n, const A* in, T* high, T* low) {
    for (index_t i = 0; i < n; ++i) {
        high[i] = static_cast<T>(in[i]);
        low[i] = static_cast<T>(in[i] - core::widen(high[i]));
    }
}

template <class T, class A = accumulator_t<T>>
void narrow_rows(index_t rows, index_t cols, const A* in, index_t in_stride, T* out, index_t out_stride) {
    for (index_t row = 0; row < rows; ++row) {
        narrow(cols, in + row * in_stride, out + row * out_stride);
    }
}

template <class T, class A = accumulator_t<T>>
void widen(index_t n, const T* in, A* out) {
    std::transform(in, in + n, out, [](T value) { return core::widen(value); });
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

template <class A>
void add(index_t n, const A* x, const A* y, A* sum) {
    for (index_t i = 0; i < n; ++i) {
        sum[i] = x[i] + y[i];
    }
}

template <class A>
void scale(index_t n, A factor, A* x) {
    for (index_t i = 0; i < n; ++i) {
        x[i] *= factor;
    }
}

template <class T, class A = accumulator_t<T>>
void scale_narrow(index_t n, A factor, const A* in, T* out) {
    for (index_t i = 0; i < n; ++i) {
        out[i] = static_cast<T>(factor * in[i]);
    }
}

template <class T, class A = accumulator_t<T>>
void sum_rows(index_t n, index_t count, const T* const* rows, A* out) {
    std::fill_n(out, n, A(0));
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < n; ++i) {
            out[i] += core::widen(rows[j][i]);
        }
    }
}

template <class T, class A = accumulator_t<T>>
A dot(index_t n, const T* x, const T* y) {
    A sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += core::widen(x[i]) * core::widen(y[i]);
    }
    return sum;
}

template <class A>
double sum_of_squares(index_t n, const A* x) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return sum;
}

template <class T, class A = accumulator_t<T>>
void swiglu_forward(index_t n, const A* gate, const A* up, const A* weight, T* out) {
    for (index_t i = 0; i < n; ++i) {
        const A silu = gate[i] / (A(1) + std::exp(-gate[i]));
        out[i] = static_cast<T>((weight == nullptr ? A(1) : weight[i]) * silu * up[i]);
    }
}

template <class T, class A = accumulator_t<T>>
A swiglu_backward(index_t n, const A* grad_out, const A* gate, const A* up, A weight, T* grad_gate, T* grad_up,
                  T* activated) {
    A weight_sum = 0;
    for (index_t i = 0; i < n; ++i) {
        const A g = gate[i];
        const A u = up[i];
        const A d = grad_out[i];
        const A sigmoid = A(1) / (A(1) + std::exp(-g));
        const A silu = g * sigmoid;
        weight_sum += d * silu * u;
        grad_up[i] = static_cast<T>(weight * d * silu);
        grad_gate[i] = static_cast<T>(weight * d * u * sigmoid * (A(1) + g * (A(1) - sigmoid)));
        if (activated != nullptr) {
            activated[i] = static_cast<T>(weight * silu * u);
        }
    }
    return weight_sum;
}

template <class T, class A = accumulator_t<T>>
A rms_norm_forward(index_t n, const A* x, const A* weight, A epsilon, T* narrow_y, A* wide_y) {
    A squares = 0;
    for (index_t i = 0; i < n; ++i) {
        squares += x[i] * x[i];
    }
    const A rstd = A(1) / std::sqrt(squares / static_cast<A>(n) + epsilon);
    for (index_t i = 0; i < n; ++i) {
        const A y = x[i] * rstd * weight[i];
        if (narrow_y != nullptr) {
            narrow_y[i] = static_cast<T>(y);
        }
        if (wide_y != nullptr) {
            wide_y[i] = y;
        }
    }
    return rstd;
}

template <class A>
void rms_norm_backward(index_t n, const A* grad_y, const A* x, const A* weight, A rstd, const A* addend, A* grad_x) {
    A projection = 0;  // <grad_y * weight, x>
    for (index_t i = 0; i < n; ++i) {
        projection += grad_y[i] * weight[i] * x[i];
    }
    const A correction = projection * rstd * rstd / static_cast<A>(n);
    for (index_t i = 0; i < n; ++i) {
        const A grad = rstd * (grad_y[i] * weight[i] - x[i] * correction);
        grad_x[i] = addend == nullptr ? grad : addend[i] + grad;
    }
}

template <class A>
void rotate(index_t half, const A* cosine, const A* sine, A direction, A* head) {
    for (index_t i = 0; i < half; ++i) {
        const A first = head[i];
        const A second = head[i + half];
        head[i] = first * cosine[i] - direction * second * sine[i];
        head[i + half] = second * cosine[i] + direction * first * sine[i];
    }
}

template <class A>
A largest(index_t n, const A* in) {
    A result = -std::numeric_limits<A>::infinity();
    for (index_t i = 0; i < n; ++i) {
        result = in[i] > result ? in[i] : result;
    }
    return result;
}

template <class A>
double sum_of_exp(index_t n, const A* in, A shift) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
        sum += static_cast<double>(std::exp(in[i] - shift));
    }
    return sum;
}

template <class T, class A = accumulator_t<T>>
A exp(index_t n, const A* in, A score_scale, A shift, A factor, T* out) {
    A sum = 0;
    for (index_t i = 0; i < n; ++i) {
        const A value = std::exp(score_scale * in[i] - shift);
        sum += value;
        out[i] = static_cast<T>(factor * value);
    }
    return sum;
}

template <class T, class A = accumulator_t<T>>
void softmax_backward(index_t n, const A* scores, const A* grad, A score_scale, A log_sum, A delta, T* probabilities,
                      T* grad_scores) {
    for (index_t i = 0; i < n; ++i) {
        const A p = std::exp(score_scale * scores[i] - log_sum);
        probabilities[i] = static_cast<T>(p);
        grad_scores[i] = static_cast<T>(score_scale * p * (grad[i] - delta));
    }
}

template <class A>
void adamw(index_t n, const AdamWFactors<A>& f, const A* gradients, A* first_moment, A* second_moment, const A* values,
           A* updated) {
    for (index_t i = 0; i < n; ++i) {
        const A gradient = f.clip * gradients[i];
        const A first = f.beta1 * first_moment[i] + (A(1) - f.beta1) * gradient;
        const A second = f.beta2 * second_moment[i] + (A(1) - f.beta2) * gradient * gradient;
        first_moment[i] = first;
        second_moment[i] = second;
        updated[i] = f.decay * values[i] - f.step_size * first / (std::sqrt(second) * f.correction + f.epsilon);
    }
}

template <class T>
constexpr ElementwiseKernels<T> describe() {
    using A = accumulator_t<T>;
    return {
        .narrow = narrow<T>,
        .widen = widen<T>,
        .split = split<T>,
        .narrow_rows = narrow_rows<T>,
        .transpose_narrow = transpose<A, T>,
        .transpose_widen = transpose<T, A>,
        .add = add<A>,
        .scale = scale<A>,
        .scale_narrow = scale_narrow<T>,
        .sum_rows = sum_rows<T>,
        .dot = dot<T>,
        .sum_of_squares = sum_of_squares<A>,
        .swiglu_forward = swiglu_forward<T>,
        .swiglu_backward = swiglu_backward<T>,
        .rms_norm_forward = rms_norm_forward<T>,
        .rms_norm_backward = rms_norm_backward<A>,
        .rotate = rotate<A>,
        .largest = largest<A>,
        .sum_of_exp = sum_of_exp<A>,
        .exp = exp<T>,
        .softmax_backward = softmax_backward<T>,
        .adamw = adamw<A>,
    };
}

}  // namespace

constinit const ElementwiseKernels<bf16> elementwise_bf16 = describe<bf16>();
constinit const ElementwiseKernels<float> elementwise_float = describe<float>();
constinit const ElementwiseKernels<double> elementwise_double = describe<double>();

}  // namespace moesaic::kernels::detail::portable
