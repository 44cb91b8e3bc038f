#include "ops/norm.hpp"

namespace moesaic::ops {
namespace {

using core::bf16;

template <class Scalar>
void normalise_row(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> x, index_t row,
                   std::span<const accumulator_t<Scalar>> weight, double epsilon, const NormOutput<Scalar>& out) {
    using Sum = accumulator_t<Scalar>;
    Sum* wide = out.wide.empty() ? nullptr : out.wide[row];
    out.rstd[static_cast<std::size_t>(row)] =
        kernels.rms_norm_forward(x.cols(), x[row], weight.data(), static_cast<Sum>(epsilon), out.y[row], wide);
}

}  // namespace

template <class Scalar>
void rms_norm_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> x,
                      std::span<const accumulator_t<Scalar>> weight, double epsilon, const NormOutput<Scalar>& out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        normalise_row<Scalar>(kernels, x, row, weight, epsilon, out);
    }
}

template <class Scalar>
void add_and_rms_norm_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> x,
                              MatrixView<const accumulator_t<Scalar>> addend, MatrixView<accumulator_t<Scalar>> sum,
                              std::span<const accumulator_t<Scalar>> weight, double epsilon,
                              const NormOutput<Scalar>& out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        kernels.add(x.cols(), x[row], addend[row], sum[row]);
        normalise_row<Scalar>(kernels, sum, row, weight, epsilon, out);
    }
}

template <class Scalar>
void rms_norm_backward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> grad_y,
                       MatrixView<const accumulator_t<Scalar>> x, std::span<const accumulator_t<Scalar>> weight,
                       std::span<const accumulator_t<Scalar>> rstd, MatrixView<accumulator_t<Scalar>> grad_x,
                       bool accumulate) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        kernels.rms_norm_backward(x.cols(), grad_y[row], x[row], weight.data(), rstd[static_cast<std::size_t>(row)],
                                  accumulate ? grad_x[row] : nullptr, grad_x[row]);
    }
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                    \
    template void rms_norm_forward<Scalar>(const ElementwiseKernels<Scalar>&, MatrixView<const accumulator_t<Scalar>>, \
                                           std::span<const accumulator_t<Scalar>>, double, const NormOutput<Scalar>&); \
    template void add_and_rms_norm_forward<Scalar>(                                                                    \
        const ElementwiseKernels<Scalar>&, MatrixView<const accumulator_t<Scalar>>,                                    \
        MatrixView<const accumulator_t<Scalar>>, MatrixView<accumulator_t<Scalar>>,                                    \
        std::span<const accumulator_t<Scalar>>, double, const NormOutput<Scalar>&);                                    \
    template void rms_norm_backward<Scalar>(                                                                           \
        const ElementwiseKernels<Scalar>&, MatrixView<const accumulator_t<Scalar>>,                                    \
        MatrixView<const accumulator_t<Scalar>>, std::span<const accumulator_t<Scalar>>,                               \
        std::span<const accumulator_t<Scalar>>, MatrixView<accumulator_t<Scalar>>, bool);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
