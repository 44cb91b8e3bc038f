#include "ops/elementwise.hpp"

#include <algorithm>
#include <type_traits>

namespace moesaic::ops {
namespace {

using core::bf16;

/// Values that are widened at a time, so that they stay in the L1 cache.
constexpr index_t chunk_size = 512;

/// Calls body(begin, count) for the chunks of a row.
template <class Body>
void for_each_chunk(index_t count, Body body) {
    for (index_t begin = 0; begin < count; begin += chunk_size) {
        body(begin, std::min(chunk_size, count - begin));
    }
}

}  // namespace

template <class Scalar>
void convert(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> in,
             MatrixView<Scalar> out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        kernels.narrow(in.cols(), in[row], out[row]);
    }
}

template <class Scalar>
void widen(const ElementwiseKernels<Scalar>& kernels, MatrixView<const Scalar> in,
           MatrixView<accumulator_t<Scalar>> out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        kernels.widen(in.cols(), in[row], out[row]);
    }
}

template <class Scalar>
MatrixView<const Scalar> as_operand(const ElementwiseKernels<Scalar>& kernels,
                                    MatrixView<const accumulator_t<Scalar>> in, Matrix<Scalar>& storage) {
    if constexpr (std::is_same_v<Scalar, accumulator_t<Scalar>>) {
        return in;
    } else {
        storage.resize(in.rows(), in.cols());
        convert<Scalar>(kernels, in, storage.view());
        return storage.view();
    }
}

template <class Scalar>
SplitOperand<Scalar> split(const kernels::KernelSet& kernels, const RoundedRows<Scalar>& rows,
                           SplitStorage<Scalar>& storage) {
    if (kernels.operand_parts<Scalar>() == 1) {
        return {rows.rounded, {}};
    }
    const MatrixView<const accumulator_t<Scalar>> in = rows.exact;
    storage.high.resize(in.rows(), in.cols());
    storage.low.resize(in.rows(), in.cols());
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        kernels.elementwise<Scalar>().split(in.cols(), in[row], storage.high.view()[row], storage.low.view()[row]);
    }
    return {storage.high, storage.low};
}

template <class Scalar, class In>
void swiglu_forward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const In> gate, MatrixView<const In> up,
                    const accumulator_t<Scalar>* weight, MatrixView<Scalar> out) {
    using Sum = accumulator_t<Scalar>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        Sum weights[chunk_size];
        Sum wide_gate[chunk_size];
        Sum wide_up[chunk_size];
        if (weight != nullptr) {
            std::fill_n(weights, chunk_size, weight[row]);
        }
        const auto sums_of = [&](index_t count, const In* in, Sum* storage) -> const Sum* {
            if constexpr (std::is_same_v<In, Sum>) {
                return in;
            } else {
                kernels.widen(count, in, storage);
                return storage;
            }
        };
        for_each_chunk(gate.cols(), [&](index_t begin, index_t count) {
            kernels.swiglu_forward(count, sums_of(count, gate[row] + begin, wide_gate),
                                   sums_of(count, up[row] + begin, wide_up), weight == nullptr ? nullptr : weights,
                                   out[row] + begin);
        });
    }
}

template <class Scalar>
void swiglu_backward(const ElementwiseKernels<Scalar>& kernels, MatrixView<const accumulator_t<Scalar>> grad_out,
                     MatrixView<const Scalar> gate, MatrixView<const Scalar> up, const accumulator_t<Scalar>* weight,
                     MatrixView<Scalar> grad_gate, MatrixView<Scalar> grad_up, accumulator_t<Scalar>* grad_weight) {
    using Sum = accumulator_t<Scalar>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        Sum wide_gate[chunk_size];
        Sum wide_up[chunk_size];
        Sum weight_sum = 0;
        for_each_chunk(gate.cols(), [&](index_t begin, index_t count) {
            kernels.widen(count, gate[row] + begin, wide_gate);
            kernels.widen(count, up[row] + begin, wide_up);
            weight_sum += kernels.swiglu_backward(count, grad_out[row] + begin, wide_gate, wide_up,
                                                  weight == nullptr ? Sum(1) : weight[row], grad_gate[row] + begin,
                                                  grad_up[row] + begin, nullptr);
        });
        if (grad_weight != nullptr) {
            grad_weight[row] = weight_sum;
        }
    }
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                   \
    template void convert<Scalar>(const ElementwiseKernels<Scalar>&, MatrixView<const accumulator_t<Scalar>>,         \
                                  MatrixView<Scalar>);                                                                \
    template void widen<Scalar>(const ElementwiseKernels<Scalar>&, MatrixView<const Scalar>,                          \
                                MatrixView<accumulator_t<Scalar>>);                                                   \
    template MatrixView<const Scalar> as_operand<Scalar>(const ElementwiseKernels<Scalar>&,                           \
                                                         MatrixView<const accumulator_t<Scalar>>, Matrix<Scalar>&);   \
    template SplitOperand<Scalar> split<Scalar>(const kernels::KernelSet&, const RoundedRows<Scalar>&,                \
                                                SplitStorage<Scalar>&);                                               \
    template void swiglu_backward<Scalar>(const ElementwiseKernels<Scalar>&, MatrixView<const accumulator_t<Scalar>>, \
                                          MatrixView<const Scalar>, MatrixView<const Scalar>,                         \
                                          const accumulator_t<Scalar>*, MatrixView<Scalar>, MatrixView<Scalar>,       \
                                          accumulator_t<Scalar>*);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE
#define MOESAIC_INSTANTIATE(Scalar, In)                                                               \
    template void swiglu_forward<Scalar, In>(const ElementwiseKernels<Scalar>&, MatrixView<const In>, \
                                             MatrixView<const In>, const accumulator_t<Scalar>*, MatrixView<Scalar>);
MOESAIC_INSTANTIATE(bf16, bf16)
MOESAIC_INSTANTIATE(bf16, float)
MOESAIC_INSTANTIATE(float, float)
MOESAIC_INSTANTIATE(double, double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
