#include "model/elementwise.hpp"

#include <cmath>
#include <type_traits>

namespace moesaic::model {

using core::bf16;

template <class T>
void convert(MatrixView<const accumulator_t<T>> in, MatrixView<T> out) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < in.rows(); ++row) {
        const accumulator_t<T>* source = in[row];
        T* target = out[row];
        for (index_t col = 0; col < in.cols(); ++col) {
            target[col] = static_cast<T>(source[col]);
        }
    }
}

template <class T>
MatrixView<const T> as_operand(MatrixView<const accumulator_t<T>> in, Matrix<T>& storage) {
    if constexpr (std::is_same_v<T, accumulator_t<T>>) {
        return in;
    } else {
        storage.resize(in.rows(), in.cols());
        convert<T>(in, storage.view());
        return storage.view();
    }
}

template <class A>
void add(MatrixView<const A> addend, MatrixView<A> sum) {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < sum.rows(); ++row) {
        const A* source = addend[row];
        A* target = sum[row];
        for (index_t col = 0; col < sum.cols(); ++col) {
            target[col] += source[col];
        }
    }
}

template <class T>
void swiglu_forward(MatrixView<const T> gate, MatrixView<const T> up, const accumulator_t<T>* weight,
                    MatrixView<T> out) {
    using A = accumulator_t<T>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        const A w = weight == nullptr ? A(1) : weight[row];
        for (index_t col = 0; col < gate.cols(); ++col) {
            const A g = core::widen(gate(row, col));
            const A silu = g / (A(1) + std::exp(-g));
            out(row, col) = static_cast<T>(w * silu * core::widen(up(row, col)));
        }
    }
}

template <class T>
void swiglu_backward(MatrixView<const accumulator_t<T>> grad_out, MatrixView<const T> gate, MatrixView<const T> up,
                     const accumulator_t<T>* weight, MatrixView<T> grad_gate, MatrixView<T> grad_up,
                     accumulator_t<T>* grad_weight) {
    using A = accumulator_t<T>;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < gate.rows(); ++row) {
        const A w = weight == nullptr ? A(1) : weight[row];
        A weight_sum = 0;
        for (index_t col = 0; col < gate.cols(); ++col) {
            const A g = core::widen(gate(row, col));
            const A u = core::widen(up(row, col));
            const A d = grad_out(row, col);
            const A sigmoid = A(1) / (A(1) + std::exp(-g));
            const A silu = g * sigmoid;
            weight_sum += d * silu * u;
            grad_up(row, col) = static_cast<T>(w * d * silu);
            grad_gate(row, col) = static_cast<T>(w * d * u * sigmoid * (A(1) + g * (A(1) - sigmoid)));
        }
        if (grad_weight != nullptr) {
            grad_weight[row] = weight_sum;
        }
    }
}

#define MOESAIC_INSTANTIATE(T)                                                                                         \
    template void convert<T>(MatrixView<const accumulator_t<T>>, MatrixView<T>);                                       \
    template MatrixView<const T> as_operand<T>(MatrixView<const accumulator_t<T>>, Matrix<T>&);                        \
    template void swiglu_forward<T>(MatrixView<const T>, MatrixView<const T>, const accumulator_t<T>*, MatrixView<T>); \
    template void swiglu_backward<T>(MatrixView<const accumulator_t<T>>, MatrixView<const T>, MatrixView<const T>,     \
                                     const accumulator_t<T>*, MatrixView<T>, MatrixView<T>, accumulator_t<T>*);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE
template void add<float>(MatrixView<const float>, MatrixView<float>);
template void add<double>(MatrixView<const double>, MatrixView<double>);

}  // namespace moesaic::model
