#include "model/norm.hpp"

#include <cmath>

namespace moesaic::model {

using core::bf16;

template <class In, class T>
void rms_norm_forward(MatrixView<const In> x, std::span<const accumulator_t<T>> weight, double epsilon, MatrixView<T> y,
                      std::span<accumulator_t<T>> rstd) {
    using A = accumulator_t<T>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        const In* in = x[row];
        A squares = 0;
        for (index_t i = 0; i < x.cols(); ++i) {
            const A value = core::widen(in[i]);
            squares += value * value;
        }
        const A scale = A(1) / std::sqrt(squares / static_cast<A>(x.cols()) + static_cast<A>(epsilon));
        rstd[static_cast<std::size_t>(row)] = scale;
        T* out = y[row];
        for (index_t i = 0; i < x.cols(); ++i) {
            out[i] = static_cast<T>(core::widen(in[i]) * scale * weight[static_cast<std::size_t>(i)]);
        }
    }
}

template <class In, class A>
void rms_norm_backward(MatrixView<const A> grad_y, MatrixView<const In> x, std::span<const A> weight,
                       std::span<const A> rstd, MatrixView<A> grad_x) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        const In* in = x[row];
        const A* grad = grad_y[row];
        const A scale = rstd[static_cast<std::size_t>(row)];
        A projection = 0;  // <grad_y * weight, x>
        for (index_t i = 0; i < x.cols(); ++i) {
            projection += grad[i] * weight[static_cast<std::size_t>(i)] * core::widen(in[i]);
        }
        const A correction = projection * scale * scale / static_cast<A>(x.cols());
        A* out = grad_x[row];
        for (index_t i = 0; i < x.cols(); ++i) {
            out[i] += scale * (grad[i] * weight[static_cast<std::size_t>(i)] - core::widen(in[i]) * correction);
        }
    }
}

#define MOESAIC_INSTANTIATE(In, T)                                                                         \
    template void rms_norm_forward<In, T>(MatrixView<const In>, std::span<const accumulator_t<T>>, double, \
                                          MatrixView<T>, std::span<accumulator_t<T>>);
MOESAIC_INSTANTIATE(float, bf16)
MOESAIC_INSTANTIATE(bf16, float)
MOESAIC_INSTANTIATE(float, float)
MOESAIC_INSTANTIATE(double, double)
#undef MOESAIC_INSTANTIATE
#define MOESAIC_INSTANTIATE(In, A)                                                                        \
    template void rms_norm_backward<In, A>(MatrixView<const A>, MatrixView<const In>, std::span<const A>, \
                                           std::span<const A>, MatrixView<A>);
MOESAIC_INSTANTIATE(bf16, float)
MOESAIC_INSTANTIATE(float, float)
MOESAIC_INSTANTIATE(double, double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
