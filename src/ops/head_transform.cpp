#include "ops/head_transform.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::ops {

using core::bf16;

template <class T>
HeadTransform<T>::HeadTransform(const kernels::KernelSet& kernels, const HeadTransformSettings& settings)
    : kernels_(kernels),
      settings_(settings),
      weight_(settings.norm == HeadNorm::none ? 0 : static_cast<std::size_t>(settings.norm_size)) {}

template <class T>
void HeadTransform<T>::forward(const Rotation<A>& rotation, MatrixView<A> heads, HeadTape<T>& tape,
                               MatrixView<T> out) const {
    const kernels::ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    const index_t cols = heads.cols();
    const index_t count = norms(cols);
    if (keeps_input()) {
        tape.raw.resize(heads.rows(), cols);
        tape.rstd.resize(static_cast<std::size_t>(heads.rows() * count));
    }
    const auto bound = static_cast<A>(settings_.clip);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < heads.rows(); ++row) {
        A* const values = heads[row];
        if (keeps_input()) {
            row_kernels.narrow(cols, values, tape.raw.view()[row]);
        }
        for (index_t i = 0; i < count; ++i) {
            A* const part = values + i * settings_.norm_size;
            tape.rstd[static_cast<std::size_t>(row * count + i)] = row_kernels.rms_norm_forward(
                settings_.norm_size, part, weight_.data(), static_cast<A>(settings_.epsilon), nullptr, part);
        }
        if (settings_.clip > 0) {
            std::transform(values, values + cols, values, [bound](A x) { return std::clamp(x, -bound, bound); });
        }
        if (settings_.rotates) {
            rotation.table.rotate(kernels_.elementwise<A>(), settings_.part, heads.row(row),
                                  rotation.positions[static_cast<std::size_t>(row)]);
        }
        row_kernels.narrow(cols, values, out[row]);
    }
}

template <class T>
void HeadTransform<T>::clip_backward(const A* input, const A* rstd, std::span<A> grad) const {
    const auto bound = static_cast<A>(settings_.clip);
    for (std::size_t i = 0; i < grad.size(); ++i) {
        const std::size_t in_weight = weight_.empty() ? 0 : i % weight_.size();
        const A value = weight_.empty() ? input[i] : input[i] * rstd[i / weight_.size()] * weight_[in_weight];
        grad[i] = std::abs(value) > bound ? A(0) : grad[i];
    }
}

template <class T>
void HeadTransform<T>::backward(const Rotation<A>& rotation, const HeadTape<T>& tape, MatrixView<A> grad,
                                Matrix<A>& work, MatrixView<T> out) const {
    const kernels::ElementwiseKernels<T>& row_kernels = kernels_.elementwise<T>();
    const index_t cols = grad.cols();
    const index_t count = norms(cols);
    if (keeps_input()) {
        work.resize(grad.rows(), cols);
    }
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad.rows(); ++row) {
        A* const values = grad[row];
        if (settings_.rotates) {
            rotation.table.rotate_back(kernels_.elementwise<A>(), settings_.part, grad.row(row),
                                       rotation.positions[static_cast<std::size_t>(row)]);
        }
        const A* const rstd = tape.rstd.data() + row * count;
        A* const input = work.view()[row];
        if (keeps_input()) {
            row_kernels.widen(cols, tape.raw.view()[row], input);
        }
        if (settings_.clip > 0) {
            clip_backward(input, rstd, grad.row(row));
        }
        for (index_t i = 0; i < count; ++i) {
            A* const part = values + i * settings_.norm_size;
            row_kernels.rms_norm_backward(settings_.norm_size, part, input + i * settings_.norm_size, weight_.data(),
                                          rstd[i], nullptr, part);
        }
        row_kernels.narrow(cols, values, out[row]);
    }
}

template class HeadTransform<bf16>;
template class HeadTransform<float>;
template class HeadTransform<double>;

}  // namespace moesaic::ops
