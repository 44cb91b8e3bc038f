#include "model/feed_forward/gated_mlp.hpp"

#include "ops/elementwise.hpp"

#include <array>
#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
GatedMlp<T>::GatedMlp(const std::string& folder, const Architecture& architecture, index_t intermediate,
                      LoraTarget target, ops::Activations activations, const LoraLayer<T>& lora,
                      std::shared_ptr<GatedMlpScratch<T>> scratch)
    : retain_(activations == ops::Activations::retain),
      kernels_(lora.shared.kernels),
      scratch_(std::move(scratch)),
      gate_(folder + "." + architecture.names.gate, {intermediate, architecture.hidden}, target, lora),
      up_(folder + "." + architecture.names.up, {intermediate, architecture.hidden}, target, lora),
      down_(folder + "." + architecture.names.down, {architecture.hidden, intermediate}, target, lora) {}

template <class T>
void GatedMlp<T>::load(const WeightSource<T>& source) {
    for (LoraLinear<T>* projection : {&gate_, &up_, &down_}) {
        projection->load(source);
    }
}

template <class T>
bool GatedMlp<T>::is_trainable() const noexcept {
    return gate_.is_adapted() || up_.is_adapted() || down_.is_adapted();
}

template <class T>
void GatedMlp<T>::update_lora() {
    for (LoraLinear<T>* projection : {&gate_, &up_, &down_}) {
        projection->update_lora();
    }
}

template <class T>
void GatedMlp<T>::project_up(MatrixView<const A> x) {
    scratch_->gate.resize(x.rows(), gate_.out());
    scratch_->up.resize(x.rows(), up_.out());
    LoraLinear<T>::forward(
        std::array<typename LoraLinear<T>::Forward, 2>{{{gate_, x, scratch_->gate}, {up_, x, scratch_->up}}});
}

template <class T>
void GatedMlp<T>::keep(GatedMlpTape<T>& tape) const {
    for (const auto& [sums, out] : {std::pair{&scratch_->gate, &tape.gate}, std::pair{&scratch_->up, &tape.up}}) {
        out->resize(sums->rows(), sums->cols());
        ops::convert<T>(kernels_.elementwise<T>(), *sums, out->view());
    }
}

template <class T>
void GatedMlp<T>::forward(MatrixView<const A> x, GatedMlpTape<T>& tape, MatrixView<A> output, const A* weights) {
    project_up(x);
    if (retain_) {
        keep(tape);
    }
    scratch_->wide_activated.resize(x.rows(), down_.in());
    ops::swiglu_forward<A>(kernels_.elementwise<A>(), scratch_->gate, scratch_->up, weights, scratch_->wide_activated);
    down_.forward(scratch_->wide_activated, output);
}

template <class T>
void GatedMlp<T>::backward(MatrixView<const T> x, const GatedMlpTape<T>& tape, MatrixView<const A> grad_output,
                           MatrixView<A> grad_x, bool accumulate, const RowWeights<A>& weights) {
    GatedMlpScratch<T>& work = *scratch_;
    if (!retain_) {
        work.input.resize(x.rows(), x.cols());
        ops::widen<T>(kernels_.elementwise<T>(), x, work.input.view());
        project_up(work.input);
        keep(work.recomputed);
    }
    const GatedMlpTape<T>& kept = retain_ ? tape : work.recomputed;
    for (Matrix<T>* matrix : {&work.activated, &work.grad_gate, &work.grad_up}) {
        matrix->resize(x.rows(), down_.in());
    }
    work.grad_activated.resize(x.rows(), down_.in());
    ops::swiglu_forward<T>(kernels_.elementwise<T>(), kept.gate, kept.up, weights.values, work.activated);
    down_.backward(work.activated, ops::as_operand<T>(kernels_.elementwise<T>(), grad_output, work.grad_output),
                   work.grad_activated);
    ops::swiglu_backward<T>(kernels_.elementwise<T>(), work.grad_activated, kept.gate, kept.up, weights.values,
                            work.grad_gate, work.grad_up, weights.gradients);
    gate_.backward(x, work.grad_gate, grad_x, accumulate);
    up_.backward(x, work.grad_up, grad_x, true);
}

template class GatedMlp<bf16>;
template class GatedMlp<float>;
template class GatedMlp<double>;

}  // namespace moesaic::model
