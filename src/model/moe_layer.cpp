#include "core/trace.hpp"
#include "model/elementwise.hpp"
#include "model/expert_parameters.hpp"
#include "model/feed_forward.hpp"
#include "model/grouped_experts.hpp"
#include "model/router.hpp"
#include "model/router_balance.hpp"

#include <algorithm>
#include <utility>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

namespace {

template <class A>
void copy_softmax(const ElementwiseKernels<A>& kernels, MatrixView<const A> logits, Matrix<A>& probabilities) {
    probabilities.resize(logits.rows(), logits.cols());
    const MatrixView<A> out = probabilities;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < logits.rows(); ++row) {
        std::copy_n(logits[row], logits.cols(), out[row]);
        softmax<A>(kernels, out.row(row));
    }
}

}  // namespace

template <class T>
MoeLayer<T>::MoeLayer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                      const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, LoraParameters<A>& parameters,
                      std::shared_ptr<ExpertWorkspace<T>> workspace, std::shared_ptr<ExchangeScratch<T>> exchange,
                      std::unique_ptr<SharedExpert<T>> shared)
    : architecture_(architecture),
      layer_(layer),
      kernels_(kernels),
      tensor_group_(grid.tensor()),
      slice_(mpi::slice_of(architecture.expert_intermediate, tensor_group_.rank(), tensor_group_.size())),
      keeps_probabilities_(settings.keep_probabilities && architecture.router.scoring != Scoring::softmax),
      exchange_(std::move(exchange)),
      shared_(std::move(shared)),
      correction_bias_(architecture.router.has_correction_bias ? static_cast<std::size_t>(architecture.experts)
                                                               : std::size_t{0}),
      router_weight_(architecture.experts, architecture.hidden) {
    ExpertConfig config;
    config.layer = layer;
    config.experts = architecture.experts;
    config.experts_per_token = architecture.experts_per_token;
    config.hidden = architecture.hidden;
    config.intermediate = slice_.extent;
    config.intermediate_begin = slice_.begin;
    config.max_tokens = settings.max_tokens;
    config.activations = settings.activations;
    const ExpertParameters<A> adapters(architecture, layer, slice_, parameters);
    adapters.configure(config);
    experts_ = std::make_unique<GroupedExperts<T>>(config, std::move(workspace), kernels);
    if (!config.skip_lora) {
        experts_->init_lora(adapters.values(), adapters.gradients());
    }
}

template <class T>
void MoeLayer<T>::update_lora() {
    if (!experts_->config().skip_lora) {
        experts_->update_lora();
    }
    if (shared_) {
        shared_->update_lora();
    }
}

template <class T>
void MoeLayer<T>::load(const WeightSource<T>& source) {
    const std::string router = architecture_.layer(layer_) + architecture_.names.router;
    source.read_exactly(router + ".weight", router_weight_);
    if (!correction_bias_.empty()) {
        source.read_vector(router + ".e_score_correction_bias", correction_bias_);
    }
    if (shared_) {
        shared_->load(source);
    }
    const index_t intermediate = architecture_.expert_intermediate;
    experts_->load_weights([&](index_t expert, Projection p, MatrixView<T> out) {
        const std::string name =
            architecture_.expert_module(layer_, expert, projection_name(architecture_.names, p)) + ".weight";
        const TensorPart part = p == Projection::down ? TensorPart{architecture_.hidden, intermediate, 0, slice_.begin}
                                                      : TensorPart{intermediate, architecture_.hidden, slice_.begin, 0};
        source.read(name, part, out);
    });
}

template <class T>
void MoeLayer<T>::forward(const RowCounts& rows, MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output,
                          bool save) {
    const index_t mine = tape.feed_input.rows();
    const index_t choices = architecture_.experts_per_token;
    {
        const Scope scope("router.forward");
        tape.scores.resize(mine, architecture_.experts);
        tape.expert_ids.resize(mine, choices);
        tape.expert_weights.resize(mine, choices);
        kernels_.run(kernels::product<A>(input, false, router_weight_, true, tape.scores));
        if (keeps_probabilities_) {
            copy_softmax<A>(kernels_.elementwise<A>(), tape.scores, tape.probabilities);
        }
        route_forward<A>(kernels_.elementwise<A>(), architecture_.router, correction_bias_, tape.scores,
                         tape.expert_ids, tape.expert_weights);
    }
    exchange_->all_rows.resize(rows.total, architecture_.hidden);
    exchange_->all_expert_ids.resize(rows.total, choices);
    exchange_->all_weights.resize(rows.total, choices);
    tensor_group_.all_gather_rows<T>(tape.feed_input, exchange_->all_rows, rows.of_rank);
    tensor_group_.all_gather_rows<std::int32_t>(tape.expert_ids, exchange_->all_expert_ids, rows.of_rank);
    tensor_group_.all_gather_rows<A>(tape.expert_weights, exchange_->all_weights, rows.of_rank);
    const MatrixView<const A> partial =
        experts_->forward(exchange_->all_rows, exchange_->all_expert_ids, exchange_->all_weights, save, rows.dropout);
    tensor_group_.reduce_scatter_rows<A>(partial, output, rows.of_rank);
    if (shared_) {
        shared_->forward(input, tape, output);
    }
}

template <class T>
void MoeLayer<T>::backward(const RowCounts& rows, const LayerTape<T>& tape, MatrixView<const A> grad_output,
                           std::span<const A> grad_probabilities, MatrixView<A> grad_input) {
    exchange_->all_rows.resize(rows.total, architecture_.hidden);
    tensor_group_.all_gather_rows<T>(as_operand<T>(kernels_.elementwise<T>(), grad_output, exchange_->grad_rows),
                                     exchange_->all_rows, rows.of_rank);
    const bool with_input_gradients = grad_input.cols() > 0;  // the same on all ranks, unlike the rows
    const ExpertGradients<T> partial = experts_->backward(exchange_->all_rows, with_input_gradients);
    if (!with_input_gradients) {
        if (shared_ && shared_->is_trainable()) {
            shared_->backward(tape, grad_output, {});
        }
        return;
    }
    exchange_->grad_weights.resize(grad_output.rows(), architecture_.experts_per_token);
    tensor_group_.reduce_scatter_rows<A>(partial.input, grad_input, rows.of_rank);
    tensor_group_.reduce_scatter_rows<A>(partial.weights, exchange_->grad_weights, rows.of_rank);
    if (shared_) {
        shared_->backward(tape, grad_output, grad_input);
    }

    const Scope scope("router.backward");
    exchange_->grad_logits.resize(grad_output.rows(), architecture_.experts);
    route_backward<A>(architecture_.router, tape.scores, tape.expert_ids, tape.expert_weights, exchange_->grad_weights,
                      exchange_->grad_logits);
    if (!grad_probabilities.empty()) {
        add_balance_gradient<A>(router_probabilities<T>(architecture_, tape), grad_probabilities,
                                exchange_->grad_logits);
    }
    kernels_.run(kernels::product<A>(exchange_->grad_logits, false, router_weight_, false, grad_input, 1, true));
}

template class MoeLayer<bf16>;
template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace moesaic::model
