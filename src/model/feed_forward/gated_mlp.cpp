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

template <class Scalar>
void GatedMlp<Scalar>::project_up(const Pass<Scalar>& pass, std::span<const LoraLinear<Scalar>, 3> projections,
                                  const ops::RoundedRows<Scalar>& x) const {
    GatedMlpScratch<Scalar>& work = workspace_.mlp;
    work.gate.resize(x.rounded.rows(), projections[gate].out());
    work.up.resize(x.rounded.rows(), projections[up].out());
    LoraLinear<Scalar>::forward(std::array<typename LoraLinear<Scalar>::Forward, 2>{{{projections[gate], x, work.gate},
                                                                                     {projections[up], x, work.up}}},
                                pass.dropout(), workspace_.linear);
}

template <class Scalar>
void GatedMlp<Scalar>::keep(GatedMlpState<Scalar>& state) const {
    const GatedMlpScratch<Scalar>& work = workspace_.mlp;
    for (const auto& [sums, out] : {std::pair{&work.gate, &state.gate}, std::pair{&work.up, &state.up}}) {
        out->resize(sums->rows(), sums->cols());
        ops::convert<Scalar>(workspace_.kernels.template elementwise<Scalar>(), *sums, out->view());
    }
}

template <class Scalar>
void GatedMlp<Scalar>::forward(const Pass<Scalar>& pass, std::span<const LoraLinear<Scalar>, 3> projections,
                               const ops::RoundedRows<Scalar>& x, GatedMlpState<Scalar>& state, MatrixView<Sum> output,
                               const Sum* weights) const {
    GatedMlpScratch<Scalar>& work = workspace_.mlp;
    project_up(pass, projections, x);
    if (retain_) {
        keep(state);
    }
    if (output.cols() == 0) {
        return;
    }
    const index_t rows = pass.rows();
    const bool is_exact = workspace_.kernels.template operand_parts<Scalar>() == 2;
    work.activated.resize(rows, projections[down].in());
    work.exact_activated.resize(is_exact ? rows : 0, projections[down].in());
    if (is_exact) {
        ops::swiglu_forward<Sum, Sum>(workspace_.kernels.template elementwise<Sum>(), work.gate, work.up, weights,
                                      work.exact_activated);
    } else {
        ops::swiglu_forward<Scalar, Sum>(workspace_.kernels.template elementwise<Scalar>(), work.gate, work.up, weights,
                                         work.activated);
    }
    projections[down].forward({work.activated, work.exact_activated}, output, pass.dropout(), workspace_.linear);
}

template <class Scalar>
void GatedMlp<Scalar>::backward(const Pass<Scalar>& pass, std::span<const LoraLinear<Scalar>, 3> projections,
                                MatrixView<const Scalar> x, const GatedMlpState<Scalar>& state,
                                MatrixView<const Sum> grad_output, MatrixView<Sum> grad_x, bool accumulate,
                                const RowWeights<Sum>& weights) const {
    GatedMlpScratch<Scalar>& work = workspace_.mlp;
    const kernels::ElementwiseKernels<Scalar>& row_kernels = workspace_.kernels.template elementwise<Scalar>();
    if (!retain_) {
        const bool is_exact = workspace_.kernels.template operand_parts<Scalar>() == 2;
        work.input.resize(is_exact ? x.rows() : 0, x.cols());
        if (is_exact) {
            ops::widen<Scalar>(row_kernels, x, work.input.view());
        }
        project_up(pass, projections, {x, work.input});
        keep(work.recomputed);
    }
    const GatedMlpState<Scalar>& kept = retain_ ? state : work.recomputed;
    for (Matrix<Scalar>* matrix : {&work.activated, &work.grad_gate, &work.grad_up}) {
        matrix->resize(x.rows(), projections[down].in());
    }
    work.grad_activated.resize(x.rows(), projections[down].in());
    ops::swiglu_forward<Scalar, Scalar>(row_kernels, kept.gate, kept.up, weights.values, work.activated);
    const auto back = [&](Index index, MatrixView<const Scalar> input, MatrixView<const Scalar> grad_y,
                          MatrixView<Sum> grad, bool add) {
        projections[index].backward(input, grad_y, grad, pass.dropout(), workspace_.linear, add);
    };
    back(down, work.activated, ops::as_operand<Scalar>(row_kernels, grad_output, work.grad_output), work.grad_activated,
         false);
    ops::swiglu_backward<Scalar>(row_kernels, work.grad_activated, kept.gate, kept.up, weights.values, work.grad_gate,
                                 work.grad_up, weights.gradients);
    back(gate, x, work.grad_gate, grad_x, accumulate);
    back(up, x, work.grad_up, grad_x, true);
}

template class GatedMlp<bf16>;
template class GatedMlp<float>;
template class GatedMlp<double>;

}  // namespace moesaic::model
