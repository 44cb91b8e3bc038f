#include "model/elementwise.hpp"
#include "model/feed_forward.hpp"
#include "model/lora_linear.hpp"

#include <array>
#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
DenseFeedForward<T>::DenseFeedForward(const Architecture& architecture, index_t layer, Activations activations,
                                      const kernels::KernelSet& kernels, std::shared_ptr<DenseScratch<T>> scratch)
    : activations_(activations), kernels_(kernels), scratch_(std::move(scratch)) {
    const TensorNames& names = architecture.names;
    const std::string prefix = architecture.layer(layer) + names.dense + ".";
    names_ = {prefix + names.gate + ".weight", prefix + names.up + ".weight", prefix + names.down + ".weight"};
    weights_[0].resize(architecture.dense_intermediate, architecture.hidden);
    weights_[1].resize(architecture.dense_intermediate, architecture.hidden);
    weights_[2].resize(architecture.hidden, architecture.dense_intermediate);
}

template <class T>
void DenseFeedForward<T>::load(const WeightSource<T>& source) {
    for (std::size_t i = 0; i < names_.size(); ++i) {
        source.read_matrix(names_[i], weights_[i]);
    }
}

template <class T>
void DenseFeedForward<T>::project_up(MatrixView<const T> input, Matrix<T>& gate, Matrix<T>& up) {
    DenseScratch<T>& work = *scratch_;
    const index_t intermediate = weights_[0].rows();
    for (const auto& [weight, out] : {std::pair{&weights_[0], &gate}, std::pair{&weights_[1], &up}}) {
        work.sums.resize(input.rows(), intermediate);
        out->resize(input.rows(), intermediate);
        const std::array<LoraForward<T>, 1> projection = {{{{.weight = *weight}, input, work.sums}}};
        lora_linear_forward<T>(kernels_, projection, work.lora);
        convert<T>(kernels_.elementwise<T>(), work.sums, *out);
    }
}

template <class T>
void DenseFeedForward<T>::forward(const RowCounts&, MatrixView<const A>, LayerTape<T>& tape, MatrixView<A> output,
                                  bool) {
    DenseScratch<T>& work = *scratch_;
    const bool retain = activations_ == Activations::retain;
    Matrix<T>& gate = retain ? tape.gate : work.gate;
    Matrix<T>& up = retain ? tape.up : work.up;
    project_up(tape.feed_input, gate, up);
    work.activated.resize(gate.rows(), gate.cols());
    swiglu_forward<T>(kernels_.elementwise<T>(), gate, up, nullptr, work.activated);
    const std::array<LoraForward<T>, 1> projection = {{{{.weight = weights_[2]}, work.activated, output}}};
    lora_linear_forward<T>(kernels_, projection, work.lora);
}

template <class T>
void DenseFeedForward<T>::backward(const RowCounts&, const LayerTape<T>& tape, MatrixView<const A> grad_output,
                                   MatrixView<A> grad_input) {
    DenseScratch<T>& work = *scratch_;
    const index_t rows = tape.feed_input.rows();
    const index_t intermediate = weights_[0].rows();
    const bool retain = activations_ == Activations::retain;
    if (!retain) {
        project_up(tape.feed_input, work.gate, work.up);
    }
    const MatrixView<const T> gate = retain ? tape.gate : work.gate;
    const MatrixView<const T> up = retain ? tape.up : work.up;
    work.sums.resize(rows, intermediate);
    work.activated.resize(rows, intermediate);
    swiglu_forward<T>(kernels_.elementwise<T>(), gate, up, nullptr, work.activated);
    const std::array<LoraBackward<T>, 1> down = {
        {{{.weight = weights_[2]},
          work.activated,
          as_operand<T>(kernels_.elementwise<T>(), grad_output, work.grad_output),
          work.sums}}};
    lora_linear_backward<T>(kernels_, down, work.lora);
    work.grad_gate.resize(rows, intermediate);
    work.grad_up.resize(rows, intermediate);
    swiglu_backward<T>(kernels_.elementwise<T>(), work.sums, gate, up, nullptr, work.grad_gate, work.grad_up, nullptr);
    const std::array<LoraBackward<T>, 2> gate_and_up = {
        {{{.weight = weights_[0]}, tape.feed_input, work.grad_gate, grad_input, false},
         {{.weight = weights_[1]}, tape.feed_input, work.grad_up, grad_input, true}}};
    for (const LoraBackward<T>& projection : gate_and_up) {  // one by one, because they share grad_input
        lora_linear_backward<T>(kernels_, {&projection, 1}, work.lora);
    }
}

template class DenseFeedForward<bf16>;
template class DenseFeedForward<float>;
template class DenseFeedForward<double>;

}  // namespace moesaic::model
