#include "model/feed_forward/shared_expert.hpp"

#include <cmath>

namespace moesaic::model {

using core::bf16;

template <class T>
SharedExpert<T>::SharedExpert(const Architecture& architecture, index_t layer, ops::Activations activations,
                              const LoraLayer<T>& lora, std::shared_ptr<GatedMlpScratch<T>> scratch)
    : kernels_(lora.shared.kernels),
      gate_name_(architecture.layer(layer) + architecture.names.shared_gate + ".weight"),
      scratch_(scratch),
      mlp_(architecture.layer(layer) + architecture.names.shared, architecture, architecture.shared.intermediate,
           LoraTarget::shared, activations, lora, std::move(scratch)) {
    if (architecture.shared.gated) {
        gate_.resize(1, architecture.hidden);
    }
}

template <class T>
void SharedExpert<T>::load(const WeightSource<T>& source) {
    mlp_.load(source);
    if (is_gated()) {
        source.read_exactly(gate_name_, gate_);
    }
}

template <class T>
void SharedExpert<T>::forward(MatrixView<const A> wide_input, LayerTape<T>& tape, MatrixView<A> output) {
    const index_t rows = wide_input.rows();
    if (is_gated()) {
        tape.shared_weights.resize(rows, 1);
        kernels_.run(kernels::product<A>(wide_input, false, gate_, true, tape.shared_weights));
        for (A& weight : tape.shared_weights.flat()) {
            weight = 1 / (1 + std::exp(-weight));
        }
    }
    scratch_->output.resize(rows, output.cols());
    mlp_.forward(wide_input, tape.mlp, scratch_->output, is_gated() ? tape.shared_weights.data() : nullptr);
    const MatrixView<const A> result = scratch_->output;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < rows; ++row) {
        kernels_.elementwise<T>().add(output.cols(), result[row], output[row], output[row]);
    }
}

template <class T>
void SharedExpert<T>::backward(const LayerTape<T>& tape, MatrixView<const A> grad_output, MatrixView<A> grad_input) {
    if (!is_gated()) {
        mlp_.backward(tape.feed_input, tape.mlp, grad_output, grad_input, true);
        return;
    }
    grad_weights_.resize(grad_output.rows(), 1);
    mlp_.backward(tape.feed_input, tape.mlp, grad_output, grad_input, true,
                  {tape.shared_weights.data(), grad_weights_.data()});
    if (grad_input.empty()) {
        return;
    }
    const MatrixView<const A> weights = tape.shared_weights;
    for (index_t row = 0; row < weights.rows(); ++row) {
        grad_weights_.view()(row, 0) *= weights(row, 0) * (1 - weights(row, 0));
    }
    kernels_.run(kernels::product<A>(grad_weights_, false, gate_, false, grad_input, 1, true));
}

template class SharedExpert<bf16>;
template class SharedExpert<float>;
template class SharedExpert<double>;

}  // namespace moesaic::model
