#include "model/feed_forward/gated_mlp.hpp"

#include "ops/elementwise.hpp"

#include <array>
#include <utility>

namespace moesaic::model {

using core::bf16;
using ops::LoraLinear;

namespace {

enum Index : std::size_t { gate, up, down };

}  // namespace

template <class T>
void GatedMlp<T>::project_up(const Pass<T>& pass, std::span<const LoraLinear<T>, 3> projections,
                             MatrixView<const A> x) const {
    GatedMlpScratch<T>& work = workspace_.mlp;
    work.gate.resize(x.rows(), projections[gate].out());
    work.up.resize(x.rows(), projections[up].out());
    LoraLinear<T>::forward(std::array<typename LoraLinear<T>::Forward, 2>{{{projections[gate], x, work.gate},
                                                                           {projections[up], x, work.up}}},
                           pass.dropout(), workspace_.linear);
}

template <class T>
void GatedMlp<T>::keep(GatedMlpState<T>& state) const {
    const GatedMlpScratch<T>& work = workspace_.mlp;
    for (const auto& [sums, out] : {std::pair{&work.gate, &state.gate}, std::pair{&work.up, &state.up}}) {
        out->resize(sums->rows(), sums->cols());
        ops::convert<T>(workspace_.kernels.template elementwise<T>(), *sums, out->view());
    }
}

template <class T>
void GatedMlp<T>::forward(const Pass<T>& pass, std::span<const LoraLinear<T>, 3> projections, MatrixView<const A> x,
                          GatedMlpState<T>& state, MatrixView<A> output, const A* weights) const {
    GatedMlpScratch<T>& work = workspace_.mlp;
    project_up(pass, projections, x);
    if (retain_) {
        keep(state);
    }
    work.wide_activated.resize(x.rows(), projections[down].in());
    ops::swiglu_forward<A>(workspace_.kernels.template elementwise<A>(), work.gate, work.up, weights,
                           work.wide_activated);
    projections[down].forward(work.wide_activated, output, pass.dropout(), workspace_.linear);
}

template <class T>
void GatedMlp<T>::backward(const Pass<T>& pass, std::span<const LoraLinear<T>, 3> projections, MatrixView<const T> x,
                           const GatedMlpState<T>& state, MatrixView<const A> grad_output, MatrixView<A> grad_x,
                           bool accumulate, const RowWeights<A>& weights) const {
    GatedMlpScratch<T>& work = workspace_.mlp;
    const kernels::ElementwiseKernels<T>& row_kernels = workspace_.kernels.template elementwise<T>();
    if (!retain_) {
        work.input.resize(x.rows(), x.cols());
        ops::widen<T>(row_kernels, x, work.input.view());
        project_up(pass, projections, work.input);
        keep(work.recomputed);
    }
    const GatedMlpState<T>& kept = retain_ ? state : work.recomputed;
    for (Matrix<T>* matrix : {&work.activated, &work.grad_gate, &work.grad_up}) {
        matrix->resize(x.rows(), projections[down].in());
    }
    work.grad_activated.resize(x.rows(), projections[down].in());
    ops::swiglu_forward<T>(row_kernels, kept.gate, kept.up, weights.values, work.activated);
    const auto back = [&](Index index, MatrixView<const T> input, MatrixView<const T> grad_y, MatrixView<A> grad,
                          bool add) {
        projections[index].backward(input, grad_y, grad, pass.dropout(), workspace_.linear, add);
    };
    back(down, work.activated, ops::as_operand<T>(row_kernels, grad_output, work.grad_output), work.grad_activated,
         false);
    ops::swiglu_backward<T>(row_kernels, work.grad_activated, kept.gate, kept.up, weights.values, work.grad_gate,
                            work.grad_up, weights.gradients);
    back(gate, x, work.grad_gate, grad_x, accumulate);
    back(up, x, work.grad_up, grad_x, true);
}

template class GatedMlp<bf16>;
template class GatedMlp<float>;
template class GatedMlp<double>;

}  // namespace moesaic::model
