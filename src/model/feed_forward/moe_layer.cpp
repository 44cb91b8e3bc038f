#include "core/trace.hpp"
#include "model/feed_forward/feed_forward.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "ops/elementwise.hpp"
#include "ops/grouped_experts.hpp"
#include "ops/router.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

namespace {

template <class A>
void copy_softmax(const kernels::ElementwiseKernels<A>& kernels, MatrixView<const A> logits, Matrix<A>& probabilities) {
    probabilities.resize(logits.rows(), logits.cols());
    const MatrixView<A> out = probabilities;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < logits.rows(); ++row) {
        std::copy_n(logits[row], logits.cols(), out[row]);
        ops::softmax<A>(kernels, out.row(row));
    }
}

/// While the experts' worker computes a chunk, this thread, which alone calls MPI, brings the rows of the next one and
/// gives back the results of the one before.
template <class Iterator, class Bring, class Submit, class Sync, class GiveBack>
void run_pipeline(Iterator chunk, Iterator end, const Bring& bring, const Submit& submit, const Sync& sync,
                  const GiveBack& give_back) {
    submit(bring(*chunk));
    for (Iterator next = std::next(chunk); next != end; chunk = next++) {
        const auto rows = bring(*next);
        const auto results = sync();
        submit(rows);
        give_back(*chunk, results);
    }
    give_back(*chunk, sync());
}

}  // namespace

template <class T>
MoeLayer<T>::MoeLayer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                      const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid, LoraParameters<A>& parameters,
                      std::shared_ptr<ops::ExpertWorkspace<T>> workspace, std::shared_ptr<TokenExchange<T>> exchange,
                      std::shared_ptr<RouterScratch<T>> router_scratch, std::unique_ptr<SharedExpert<T>> shared)
    : architecture_(architecture),
      layer_(layer),
      kernels_(kernels),
      part_(architecture, grid),
      keeps_probabilities_(settings.keep_probabilities && architecture.router.scoring != ops::Scoring::softmax),
      exchange_(std::move(exchange)),
      router_scratch_(std::move(router_scratch)),
      shared_(std::move(shared)),
      correction_bias_(architecture.router.has_correction_bias ? static_cast<std::size_t>(architecture.experts)
                                                               : std::size_t{0}),
      router_weight_(architecture.experts, architecture.hidden) {
    ops::ExpertConfig config;
    config.layer = layer;
    config.experts = part_.experts.extent;
    config.experts_begin = part_.experts.begin;
    config.experts_of_layer = architecture.experts;
    config.experts_per_token = architecture.experts_per_token;
    config.hidden = architecture.hidden;
    config.intermediate = part_.intermediate.extent;
    config.intermediate_begin = part_.intermediate.begin;
    config.max_tokens = settings.max_tokens;
    config.weight_format = ops::format_for<T>(architecture.stored.experts);
    config.activations = settings.activations;
    config.max_cache_depth = exchange_->chunks();
    const ExpertParameters<A> adapters(architecture, layer, part_, parameters);
    adapters.configure(config);
    experts_ = std::make_unique<ops::GroupedExperts<T>>(config, std::move(workspace), kernels);
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
    const auto name_of = [&](index_t expert, ops::Projection p) {
        return architecture_.expert_module(layer_, expert, projection_name(architecture_.names, p)) + ".weight";
    };
    for (index_t expert = 0; expert < architecture_.experts; ++expert) {
        for (const ops::Projection p : ops::projections) {
            if (!part_.experts.contains(expert)) {
                source.leave_to_others(name_of(expert, p));
            }
        }
    }
    const index_t intermediate = architecture_.expert_intermediate;
    experts_->load_weights([&](index_t expert, ops::Projection p, ops::PackedMatrix out) {
        const index_t begin = part_.intermediate.begin;
        const TensorPart part = p == ops::Projection::down ? TensorPart{architecture_.hidden, intermediate, 0, begin}
                                                           : TensorPart{intermediate, architecture_.hidden, begin, 0};
        source.fill(name_of(part_.experts.begin + expert, p), part, out);
    });
}

template <class T>
void MoeLayer<T>::route(LayerTape<T>& tape, MatrixView<const A> input) {
    const Scope scope("router.forward");
    const index_t rows = input.rows();
    tape.scores.resize(rows, architecture_.experts);
    tape.expert_ids.resize(rows, architecture_.experts_per_token);
    tape.expert_weights.resize(rows, architecture_.experts_per_token);
    kernels_.run(kernels::product<A>(input, false, router_weight_, true, tape.scores));
    if (keeps_probabilities_) {
        copy_softmax<A>(kernels_.elementwise<A>(), tape.scores, tape.probabilities);
    }
    ops::route_forward<A>(kernels_.elementwise<A>(), architecture_.router, correction_bias_, tape.scores,
                          tape.expert_ids, tape.expert_weights);
}

template <class T>
void MoeLayer<T>::route_backward(const LayerTape<T>& tape, std::span<const A> grad_probabilities,
                                 MatrixView<A> grad_input) {
    const Scope scope("router.backward");
    Matrix<A>& grad_logits = router_scratch_->grad_logits;
    grad_logits.resize(grad_input.rows(), architecture_.experts);
    ops::route_backward<A>(architecture_.router, tape.scores, tape.expert_ids, tape.expert_weights,
                           router_scratch_->grad_weights, grad_logits);
    if (!grad_probabilities.empty()) {
        add_balance_gradient<A>(router_probabilities<T>(architecture_, tape), grad_probabilities, grad_logits);
    }
    kernels_.run(kernels::product<A>(grad_logits, false, router_weight_, false, grad_input, 1, true));
}

template <class T>
void MoeLayer<T>::forward(MatrixView<const A> input, LayerTape<T>& tape, MatrixView<A> output, bool save) {
    route(tape, input);
    exchange_->plan(tape.expert_ids, tape.chunks);
    const auto bring = [&](const RowRoutes& chunk) {
        return exchange_->dispatch(chunk, tape.feed_input, tape.expert_ids, tape.expert_weights);
    };
    const auto give_back = [&](const RowRoutes& chunk, MatrixView<const A> partial) {
        exchange_->combine(chunk, partial, output);
    };
    if (tape.chunks.size() == 1) {
        const ExpertRows<T> rows = bring(tape.chunks[0]);
        give_back(tape.chunks[0], experts_->forward(rows.hidden, rows.expert_ids, rows.weights, save, rows.dropout));
    } else {
        const auto submit = [&](const ExpertRows<T>& rows) {
            experts_->submit_forward(rows.hidden, rows.expert_ids, rows.weights, save, rows.dropout);
        };
        run_pipeline(
            tape.chunks.begin(), tape.chunks.end(), bring, submit, [&] { return experts_->sync_forward(); }, give_back);
    }
    if (shared_) {
        shared_->forward(input, tape, output);
    }
}

template <class T>
void MoeLayer<T>::backward(const LayerTape<T>& tape, MatrixView<const A> grad_output,
                           std::span<const A> grad_probabilities, MatrixView<A> grad_input) {
    const bool with_input_gradients = grad_input.cols() > 0;  // the same on all ranks, unlike the rows
    router_scratch_->grad_weights.resize(grad_output.rows(), architecture_.experts_per_token);
    const auto bring = [&](const RowRoutes& chunk) { return exchange_->dispatch_gradient(chunk, grad_output); };
    const auto give_back = [&](const RowRoutes& chunk, const ops::ExpertGradients<T>& partial) {
        if (with_input_gradients) {
            exchange_->combine(chunk, partial.input, grad_input);
            exchange_->combine_weights(chunk, partial.weights, router_scratch_->grad_weights);
        }
    };
    if (tape.chunks.size() == 1) {
        give_back(tape.chunks[0], experts_->backward(bring(tape.chunks[0]), with_input_gradients));
    } else {  // the last chunk was saved last
        const auto submit = [&](MatrixView<const T> rows) { experts_->submit_backward(rows, with_input_gradients); };
        run_pipeline(
            tape.chunks.rbegin(), tape.chunks.rend(), bring, submit, [&] { return experts_->sync_backward(); },
            give_back);
    }
    if (shared_ && (with_input_gradients || shared_->is_trainable())) {
        shared_->backward(tape, grad_output, grad_input);
    }
    if (with_input_gradients) {
        route_backward(tape, grad_probabilities, grad_input);
    }
}

template class MoeLayer<bf16>;
template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace moesaic::model
