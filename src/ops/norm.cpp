#include "ops/norm.hpp"

namespace moesaic::ops {
namespace {

using core::bf16;

template <class T>
void normalise_row(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> x, index_t row,
                   std::span<const accumulator_t<T>> weight, double epsilon, const NormOutput<T>& out) {
    using A = accumulator_t<T>;
    A* wide = out.wide.empty() ? nullptr : out.wide[row];
    out.rstd[static_cast<std::size_t>(row)] =
        kernels.rms_norm_forward(x.cols(), x[row], weight.data(), static_cast<A>(epsilon), out.y[row], wide);
}

}  // namespace

template <class T>
void rms_norm_forward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> x,
                      std::span<const accumulator_t<T>> weight, double epsilon, const NormOutput<T>& out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        normalise_row<T>(kernels, x, row, weight, epsilon, out);
    }
}

template <class T>
void add_and_rms_norm_forward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> x,
                              MatrixView<const accumulator_t<T>> addend, MatrixView<accumulator_t<T>> sum,
                              std::span<const accumulator_t<T>> weight, double epsilon, const NormOutput<T>& out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        kernels.add(x.cols(), x[row], addend[row], sum[row]);
        normalise_row<T>(kernels, sum, row, weight, epsilon, out);
    }
}

template <class T>
void rms_norm_backward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> grad_y,
                       MatrixView<const accumulator_t<T>> x, std::span<const accumulator_t<T>> weight,
                       std::span<const accumulator_t<T>> rstd, MatrixView<accumulator_t<T>> grad_x, bool accumulate) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        kernels.rms_norm_backward(x.cols(), grad_y[row], x[row], weight.data(), rstd[static_cast<std::size_t>(row)],
                                  accumulate ? grad_x[row] : nullptr, grad_x[row]);
    }
}

#define MOESAIC_INSTANTIATE(T)                                                                                  \
    template void rms_norm_forward<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>,         \
                                      std::span<const accumulator_t<T>>, double, const NormOutput<T>&);         \
    template void add_and_rms_norm_forward<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>, \
                                              MatrixView<const accumulator_t<T>>, MatrixView<accumulator_t<T>>, \
                                              std::span<const accumulator_t<T>>, double, const NormOutput<T>&); \
    template void rms_norm_backward<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>,        \
                                       MatrixView<const accumulator_t<T>>, std::span<const accumulator_t<T>>,   \
                                       std::span<const accumulator_t<T>>, MatrixView<accumulator_t<T>>, bool);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
