#include "model/gated_mlp.hpp"

#include "model/elementwise.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
GatedMlp<T>::GatedMlp(const std::string& folder, const Architecture& architecture, index_t intermediate,
                      LoraTarget target, Activations activations, const LoraLayer<T>& lora,
                      std::shared_ptr<GatedMlpScratch<T>> scratch)
    : retain_(activations == Activations::retain),
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
void GatedMlp<T>::project_up(MatrixView<const T> x, GatedMlpTape<T>& tape) {
    Matrix<A>& sums = scratch_->sums;
    for (const auto& [projection, out] : {std::pair{&gate_, &tape.gate}, std::pair{&up_, &tape.up}}) {
        sums.resize(x.rows(), projection->out());
        out->resize(x.rows(), projection->out());
        projection->forward(x, sums);
        convert<T>(kernels_.elementwise<T>(), sums, out->view());
    }
}

template <class T>
void GatedMlp<T>::forward(MatrixView<const T> x, GatedMlpTape<T>& tape, MatrixView<A> output, const A* weights) {
    GatedMlpTape<T>& kept = retain_ ? tape : scratch_->recomputed;
    project_up(x, kept);
    scratch_->activated.resize(x.rows(), down_.in());
    swiglu_forward<T>(kernels_.elementwise<T>(), kept.gate, kept.up, weights, scratch_->activated);
    down_.forward(scratch_->activated, output);
}

template <class T>
void GatedMlp<T>::backward(MatrixView<const T> x, const GatedMlpTape<T>& tape, MatrixView<const A> grad_output,
                           MatrixView<A> grad_x, bool accumulate, const RowWeights<A>& weights) {
    GatedMlpScratch<T>& work = *scratch_;
    if (!retain_) {
        project_up(x, work.recomputed);
    }
    const GatedMlpTape<T>& kept = retain_ ? tape : work.recomputed;
    for (Matrix<T>* matrix : {&work.activated, &work.grad_gate, &work.grad_up}) {
        matrix->resize(x.rows(), down_.in());
    }
    work.sums.resize(x.rows(), down_.in());
    swiglu_forward<T>(kernels_.elementwise<T>(), kept.gate, kept.up, weights.values, work.activated);
    down_.backward(work.activated, as_operand<T>(kernels_.elementwise<T>(), grad_output, work.grad_output), work.sums);
    swiglu_backward<T>(kernels_.elementwise<T>(), work.sums, kept.gate, kept.up, weights.values, work.grad_gate,
                       work.grad_up, weights.gradients);
    gate_.backward(x, work.grad_gate, grad_x, accumulate);
    up_.backward(x, work.grad_up, grad_x, true);
}

template class GatedMlp<bf16>;
template class GatedMlp<float>;
template class GatedMlp<double>;

}  // namespace moesaic::model
