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

template <class T>
void convert(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> in, MatrixView<T> out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        kernels.narrow(in.cols(), in[row], out[row]);
    }
}

template <class T>
void widen(const ElementwiseKernels<T>& kernels, MatrixView<const T> in, MatrixView<accumulator_t<T>> out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        kernels.widen(in.cols(), in[row], out[row]);
    }
}

template <class T>
MatrixView<const T> as_operand(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> in,
                               Matrix<T>& storage) {
    if constexpr (std::is_same_v<T, accumulator_t<T>>) {
        return in;
    } else {
        storage.resize(in.rows(), in.cols());
        convert<T>(kernels, in, storage.view());
        return storage.view();
    }
}

template <class T>
SplitOperand<T> split(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> in,
                      SplitStorage<T>& storage) {
    if constexpr (std::is_same_v<T, accumulator_t<T>>) {
        return {in, {}};
    } else {
        storage.high.resize(in.rows(), in.cols());
        storage.low.resize(in.rows(), in.cols());
#pragma omp parallel for schedule(static)
        for (index_t row = 0; row < in.rows(); ++row) {
            kernels.split(in.cols(), in[row], storage.high.view()[row], storage.low.view()[row]);
        }
        return {storage.high, storage.low};
    }
}

template <class T>
void swiglu_forward(const ElementwiseKernels<T>& kernels, MatrixView<const T> gate, MatrixView<const T> up,
                    const accumulator_t<T>* weight, MatrixView<T> out) {
    using A = accumulator_t<T>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        A weights[chunk_size];
        A wide_gate[chunk_size];
        A wide_up[chunk_size];
        if (weight != nullptr) {
            std::fill_n(weights, chunk_size, weight[row]);
        }
        for_each_chunk(gate.cols(), [&](index_t begin, index_t count) {
            kernels.widen(count, gate[row] + begin, wide_gate);
            kernels.widen(count, up[row] + begin, wide_up);
            kernels.swiglu_forward(count, wide_gate, wide_up, weight == nullptr ? nullptr : weights, out[row] + begin);
        });
    }
}

template <class T>
void swiglu_backward(const ElementwiseKernels<T>& kernels, MatrixView<const accumulator_t<T>> grad_out,
                     MatrixView<const T> gate, MatrixView<const T> up, const accumulator_t<T>* weight,
                     MatrixView<T> grad_gate, MatrixView<T> grad_up, accumulator_t<T>* grad_weight) {
    using A = accumulator_t<T>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        A wide_gate[chunk_size];
        A wide_up[chunk_size];
        A weight_sum = 0;
        for_each_chunk(gate.cols(), [&](index_t begin, index_t count) {
            kernels.widen(count, gate[row] + begin, wide_gate);
            kernels.widen(count, up[row] + begin, wide_up);
            weight_sum += kernels.swiglu_backward(count, grad_out[row] + begin, wide_gate, wide_up,
                                                  weight == nullptr ? A(1) : weight[row], grad_gate[row] + begin,
                                                  grad_up[row] + begin, nullptr);
        });
        if (grad_weight != nullptr) {
            grad_weight[row] = weight_sum;
        }
    }
}

#define MOESAIC_INSTANTIATE(T)                                                                                         \
    template void convert<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>, MatrixView<T>);         \
    template void widen<T>(const ElementwiseKernels<T>&, MatrixView<const T>, MatrixView<accumulator_t<T>>);           \
    template MatrixView<const T> as_operand<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>,       \
                                               Matrix<T>&);                                                            \
    template SplitOperand<T> split<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>,                \
                                      SplitStorage<T>&);                                                               \
    template void swiglu_forward<T>(const ElementwiseKernels<T>&, MatrixView<const T>, MatrixView<const T>,            \
                                    const accumulator_t<T>*, MatrixView<T>);                                           \
    template void swiglu_backward<T>(const ElementwiseKernels<T>&, MatrixView<const accumulator_t<T>>,                 \
                                     MatrixView<const T>, MatrixView<const T>, const accumulator_t<T>*, MatrixView<T>, \
                                     MatrixView<T>, accumulator_t<T>*);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
