#include "ops/head_transform.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::ops {

using core::bf16;

void plan_head_transform(const HeadTransformSettings& settings, index_t cols, std::vector<BufferPlan>& state,
                         std::vector<BufferPlan>& scratch) {
    if (settings.keeps_input()) {
        state.push_back({"raw", Rows::own, Element::scalar, cols});
        state.push_back({"rstd", Rows::own, Element::sum, settings.norms(cols)});
        scratch.push_back({"attention.attended", Rows::own, Element::sum, cols, true});
    }
}

template <class Scalar>
HeadTransform<Scalar>::HeadTransform(const kernels::KernelSet& kernels, const HeadTransformSettings& settings)
    : kernels_(kernels),
      settings_(settings),
      weight_(settings.norm == HeadNorm::none ? 0 : static_cast<std::size_t>(settings.norm_size)) {}

template <class Scalar>
void HeadTransform<Scalar>::forward(const Rotation<Sum>& rotation, MatrixView<Sum> heads, HeadTape<Scalar>& tape,
                                    MatrixView<Scalar> out) const {
    const kernels::ElementwiseKernels<Scalar>& row_kernels = kernels_.elementwise<Scalar>();
    const index_t cols = heads.cols();
    const index_t count = settings_.norms(cols);
    if (settings_.keeps_input()) {
        tape.raw.resize(heads.rows(), cols);
        tape.rstd.resize(static_cast<std::size_t>(heads.rows() * count));
    }
    const auto bound = static_cast<Sum>(settings_.clip);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < heads.rows(); ++row) {
        Sum* const values = heads[row];
        if (settings_.keeps_input()) {
            row_kernels.narrow(cols, values, tape.raw.view()[row]);
        }
        for (index_t i = 0; i < count; ++i) {
            Sum* const run = values + i * settings_.norm_size;
            tape.rstd[static_cast<std::size_t>(row * count + i)] = row_kernels.rms_norm_forward(
                settings_.norm_size, run, weight_.data(), static_cast<Sum>(settings_.epsilon), nullptr, run);
        }
        if (settings_.clip > 0) {
            std::transform(values, values + cols, values, [bound](Sum x) { return std::clamp(x, -bound, bound); });
        }
        if (settings_.rotates) {
            rotation.table.rotate(kernels_.elementwise<Sum>(), settings_.part, heads.row(row),
                                  rotation.positions[static_cast<std::size_t>(row)]);
        }
        row_kernels.narrow(cols, values, out[row]);
    }
}

template <class Scalar>
void HeadTransform<Scalar>::clip_backward(const Sum* input, const Sum* rstd, std::span<Sum> grad) const {
    const auto bound = static_cast<Sum>(settings_.clip);
    for (std::size_t i = 0; i < grad.size(); ++i) {
        const std::size_t in_weight = weight_.empty() ? 0 : i % weight_.size();
        const Sum value = weight_.empty() ? input[i] : input[i] * rstd[i / weight_.size()] * weight_[in_weight];
        grad[i] = std::abs(value) > bound ? Sum(0) : grad[i];
    }
}

template <class Scalar>
void HeadTransform<Scalar>::backward(const Rotation<Sum>& rotation, const HeadTape<Scalar>& tape, MatrixView<Sum> grad,
                                     Matrix<Sum>& work, MatrixView<Scalar> out) const {
    const kernels::ElementwiseKernels<Scalar>& row_kernels = kernels_.elementwise<Scalar>();
    const index_t cols = grad.cols();
    const index_t count = settings_.norms(cols);
    if (settings_.keeps_input()) {
        work.resize(grad.rows(), cols);
    }
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad.rows(); ++row) {
        Sum* const values = grad[row];
        if (settings_.rotates) {
            rotation.table.rotate_back(kernels_.elementwise<Sum>(), settings_.part, grad.row(row),
                                       rotation.positions[static_cast<std::size_t>(row)]);
        }
        const Sum* const rstd = tape.rstd.data() + row * count;
        Sum* const input = work.view()[row];
        if (settings_.keeps_input()) {
            row_kernels.widen(cols, tape.raw.view()[row], input);
        }
        if (settings_.clip > 0) {
            clip_backward(input, rstd, grad.row(row));
        }
        for (index_t i = 0; i < count; ++i) {
            Sum* const run = values + i * settings_.norm_size;
            row_kernels.rms_norm_backward(settings_.norm_size, run, input + i * settings_.norm_size, weight_.data(),
                                          rstd[i], nullptr, run);
        }
        row_kernels.narrow(cols, values, out[row]);
    }
}

template class HeadTransform<bf16>;
template class HeadTransform<float>;
template class HeadTransform<double>;

}  // namespace moesaic::ops
