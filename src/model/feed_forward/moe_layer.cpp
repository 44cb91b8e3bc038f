#include "model/feed_forward/moe_layer.hpp"

#include "core/trace.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "ops/elementwise.hpp"
#include "ops/grouped_experts.hpp"
#include "ops/router.hpp"

#include <algorithm>
#include <cmath>
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
/// gives back the results of the one before:
///
///     this thread   bring 0 | bring 1  give -  | bring 2  give 0 | ...  give last
///     worker                | compute 0        | compute 1       | ...
///
/// order(i) is the i-th of `count` chunks.
template <class Order, class Bring, class Submit, class Sync, class GiveBack>
void run_pipeline(std::size_t count, const Order& order, const Bring& bring, const Submit& submit, const Sync& sync,
                  const GiveBack& give_back) {
    submit(order(0), bring(order(0)));
    for (std::size_t i = 1; i < count; ++i) {
        const auto rows = bring(order(i));
        const auto results = sync();
        submit(order(i), rows);
        give_back(order(i - 1), results);
    }
    give_back(order(count - 1), sync());
}

/// If an exception ends the exchange of a chunk while the worker computes another, whose rows and saved state belong to
/// the tape, waits until the worker has done with them.
template <class T>
class WaitsForWorker {
public:
    explicit WaitsForWorker(ops::ExpertBackend<T>& experts) : experts_(experts) {}
    WaitsForWorker(const WaitsForWorker&) = delete;
    WaitsForWorker& operator=(const WaitsForWorker&) = delete;
    ~WaitsForWorker() { experts_.abandon(); }

private:
    ops::ExpertBackend<T>& experts_;
};

/// Of this rank's experts, whose activations have type T.
template <class T>
ops::ExpertConfig config_of(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                            const GridPlace& place, std::span<const ProjectionPlan> routed) {
    const ExpertShare share(architecture, place);
    ops::ExpertConfig config;
    config.layer = layer;
    config.experts = share.experts.extent;
    config.experts_begin = share.experts.begin;
    config.experts_of_layer = architecture.experts;
    config.experts_per_token = architecture.experts_per_token;
    config.hidden = architecture.hidden;
    config.intermediate = share.intermediate.extent;
    config.intermediate_begin = share.intermediate.begin;
    config.max_tokens = settings.max_tokens;
    config.weight_format = ops::format_for<T>(architecture.stored.experts);
    config.activations = settings.activations;
    config.lora_rank = routed.front().lora_rank;
    config.skip_lora = config.lora_rank == 0;
    config.lora_alpha = 1;  // every adapter has its own scale
    for (std::size_t p = 0; p < routed.size(); ++p) {
        for (index_t e = share.experts.begin; e < share.experts.end(); ++e) {
            config.lora_scales[p].push_back(routed[p].specs[static_cast<std::size_t>(e)].scale);
        }
    }
    return config;
}

}  // namespace

template <class T>
MoeLayer<T>::MoeLayer(const Architecture& architecture, index_t layer, BlockPlan plan, const DecoderSettings& settings,
                      const GridPlace& place, const LoraParameters<A>& parameters, Workspace<T>& workspace)
    : Block<T>(std::move(plan), parameters, workspace),
      architecture_(architecture),
      keeps_probabilities_(settings.keep_probabilities && architecture.router.scoring != ops::Scoring::softmax),
      shared_(settings.activations, workspace),
      router_weight_(architecture.experts, architecture.hidden) {
    if (architecture.router.has_correction_bias) {
        correction_bias_.resize(1, architecture.experts);
    }
    if (architecture.shared.gated) {
        shared_gate_.resize(1, architecture.hidden);
    }
    const auto routed_plans = std::span(this->plan().projections).template last<ops::projections.size()>();
    experts_ = std::make_unique<ops::GroupedExperts<T>>(
        config_of<T>(architecture, layer, settings, place, routed_plans), workspace.experts, workspace.kernels);
    if (!experts_->config().skip_lora) {
        ops::ExpertFactors<const A> values;
        ops::ExpertFactors<A> gradients;
        for (const ops::Projection p : ops::projections) {
            const ProjectionFactors<A> factors = parameters.factors_of(routed(p));
            values[p] = factors.values;
            gradients[p] = factors.gradients;
        }
        experts_->init_lora(values, gradients);
    }
}

template <class T>
const ProjectionPlan& MoeLayer<T>::routed(ops::Projection p) const {
    const std::vector<ProjectionPlan>& all = this->plan().projections;
    return all[all.size() - ops::projections.size() + static_cast<std::size_t>(p)];
}

template <class T>
void MoeLayer<T>::update_lora() {
    Block<T>::update_lora();
    if (!experts_->config().skip_lora) {
        experts_->update_lora();
    }
}

template <class T>
std::vector<MatrixView<accumulator_t<T>>> MoeLayer<T>::tensors() {
    std::vector<MatrixView<A>> all = {router_weight_};
    for (Matrix<A>* tensor : {&correction_bias_, &shared_gate_}) {
        if (tensor->size() > 0) {
            all.push_back(*tensor);
        }
    }
    return all;
}

template <class T>
void MoeLayer<T>::load(const WeightSource<T>& source) {
    Block<T>::load(source);
    for (const ops::Projection p : ops::projections) {
        const ProjectionPlan& plan = routed(p);
        for (index_t e = 0; e < plan.count(); ++e) {
            if (!plan.held.contains(e)) {
                source.mark_read_elsewhere(plan.modules[static_cast<std::size_t>(e)] + ".weight");
            }
        }
    }
    experts_->load_weights([&](index_t expert, ops::Projection p, ops::PackedMatrix out) {
        const ProjectionPlan& plan = routed(p);
        const index_t begin = plan.shard.begin;
        const bool by_rows = plan.sharded == ShardedSide::out;
        source.fill(plan.modules[static_cast<std::size_t>(plan.held.begin + expert)] + ".weight",
                    {plan.out, plan.in, by_rows ? begin : 0, by_rows ? 0 : begin}, out);
    });
}

template <class T>
void MoeLayer<T>::route(MatrixView<const A> input, State& state) const {
    const Scope scope(core::scopes::router_forward);
    const index_t rows = input.rows();
    state.scores.resize(rows, architecture_.experts);
    state.expert_ids.resize(rows, architecture_.experts_per_token);
    state.expert_weights.resize(rows, architecture_.experts_per_token);
    this->kernels().run(kernels::product<A>(input, false, router_weight_, true, state.scores));
    const kernels::ElementwiseKernels<A>& row_kernels = this->kernels().template elementwise<A>();
    if (keeps_probabilities_) {
        copy_softmax<A>(row_kernels, state.scores, state.probabilities);
    }
    ops::route_forward<A>(row_kernels, architecture_.router, correction_bias_.flat(), state.scores, state.expert_ids,
                          state.expert_weights);
    const bool scores_are_softmax = architecture_.router.scoring == ops::Scoring::softmax;
    state.routing_of_rows = {state.expert_ids, scores_are_softmax ? state.scores : state.probabilities};
}

template <class T>
void MoeLayer<T>::route_backward(const State& state, std::span<const A> grad_probabilities,
                                 MatrixView<A> grad_input) const {
    const Scope scope(core::scopes::router_backward);
    RouterScratch<T>& work = this->workspace().router;
    work.grad_logits.resize(grad_input.rows(), architecture_.experts);
    ops::route_backward<A>(architecture_.router, state.scores, state.expert_ids, state.expert_weights,
                           work.grad_weights, work.grad_logits);
    if (!grad_probabilities.empty()) {
        add_balance_gradient<A>(state.routing_of_rows.probabilities, grad_probabilities, work.grad_logits);
    }
    this->kernels().run(kernels::product<A>(work.grad_logits, false, router_weight_, false, grad_input, 1, true));
}

template <class T>
void MoeLayer<T>::run_experts(const Pass<T>& pass, MatrixView<const T> input, State& state, MatrixView<A> output,
                              bool keep) {
    TokenExchange<T>& exchange = this->workspace().exchange;
    exchange.plan(pass.rows_of_ranks, state.expert_ids, state.routes);
    state.chunks.resize(state.routes.size());
    const ops::ExpertRows<T> mine = {input, state.expert_ids, state.expert_weights, pass.dropout()};
    const auto bring = [&](std::size_t c) { return exchange.dispatch(state.routes[c], mine, state.chunks[c].arrived); };
    const auto give_back = [&](std::size_t c, MatrixView<const A> partial) {
        exchange.combine(state.routes[c], partial, output);
    };
    if (state.routes.size() == 1) {
        give_back(0, experts_->forward(bring(0), state.chunks[0].experts, keep));
        return;
    }
    const auto submit = [&](std::size_t c, const ops::ExpertRows<T>& rows) {
        experts_->submit_forward(rows, state.chunks[c].experts, keep);
    };
    const WaitsForWorker<T> guard(*experts_);
    run_pipeline(
        state.routes.size(), [](std::size_t i) { return i; }, bring, submit, [&] { return experts_->sync_forward(); },
        give_back);
}

template <class T>
void MoeLayer<T>::experts_backward(const State& state, MatrixView<const A> grad_output, MatrixView<A> grad_input) {
    const bool with_input_gradients = grad_input.cols() > 0;  // the same on all ranks, unlike the rows
    TokenExchange<T>& exchange = this->workspace().exchange;
    Matrix<A>& grad_weights = this->workspace().router.grad_weights;
    grad_weights.resize(grad_output.rows(), architecture_.experts_per_token);
    const auto bring = [&](std::size_t c) { return exchange.dispatch_gradient(state.routes[c], grad_output); };
    const auto give_back = [&](std::size_t c, const ops::ExpertGradients<T>& partial) {
        if (with_input_gradients) {
            exchange.combine(state.routes[c], partial.input, grad_input);
            exchange.combine_weights(state.routes[c], partial.weights, grad_weights);
        }
    };
    const std::size_t chunks = state.routes.size();
    if (chunks == 1) {
        give_back(0, experts_->backward(state.chunks[0].experts, bring(0), with_input_gradients));
        return;
    }
    const auto submit = [&](std::size_t c, MatrixView<const T> rows) {
        experts_->submit_backward(state.chunks[c].experts, rows, with_input_gradients);
    };
    const WaitsForWorker<T> guard(*experts_);
    run_pipeline(
        chunks, [&](std::size_t i) { return chunks - 1 - i; }, bring, submit, [&] { return experts_->sync_backward(); },
        give_back);
}

template <class T>
void MoeLayer<T>::run_shared(const Pass<T>& pass, MatrixView<const A> input, State& state, MatrixView<A> output) const {
    const index_t rows = input.rows();
    const bool gated = shared_gate_.size() > 0;
    if (gated) {
        state.shared_weights.resize(rows, 1);
        this->kernels().run(kernels::product<A>(input, false, shared_gate_, true, state.shared_weights));
        for (A& weight : state.shared_weights.flat()) {
            weight = 1 / (1 + std::exp(-weight));
        }
    }
    Matrix<A>& own = this->workspace().router.shared_output;
    own.resize(rows, output.cols());
    shared_.forward(pass, shared_projections(), input, state.shared, own,
                    gated ? state.shared_weights.data() : nullptr);
    const MatrixView<const A> result = own;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < rows; ++row) {
        this->kernels().template elementwise<T>().add(output.cols(), result[row], output[row], output[row]);
    }
}

template <class T>
void MoeLayer<T>::shared_backward(const Pass<T>& pass, MatrixView<const T> input, const State& state,
                                  MatrixView<const A> grad_output, MatrixView<A> grad_input) const {
    if (shared_gate_.size() == 0) {
        shared_.backward(pass, shared_projections(), input, state.shared, grad_output, grad_input, true);
        return;
    }
    Matrix<A>& grad_weights = this->workspace().router.shared_grad_weights;
    grad_weights.resize(grad_output.rows(), 1);
    shared_.backward(pass, shared_projections(), input, state.shared, grad_output, grad_input, true,
                     {state.shared_weights.data(), grad_weights.data()});
    if (grad_input.empty()) {
        return;
    }
    const MatrixView<const A> weights = state.shared_weights;
    for (index_t row = 0; row < weights.rows(); ++row) {
        grad_weights.view()(row, 0) *= weights(row, 0) * (1 - weights(row, 0));
    }
    this->kernels().run(kernels::product<A>(grad_weights, false, shared_gate_, false, grad_input, 1, true));
}

template <class T>
void MoeLayer<T>::forward(const Pass<T>& pass, const BlockInput<T>& input, BlockState<T>& state, MatrixView<A> output,
                          bool keep) {
    auto& kept = static_cast<State&>(state);
    route(input.wide, kept);
    run_experts(pass, input.rounded, kept, output, keep);
    if (has_shared()) {
        run_shared(pass, input.wide, kept, output);
    }
}

template <class T>
void MoeLayer<T>::backward(const Pass<T>& pass, MatrixView<const T> input, const BlockState<T>& state,
                           MatrixView<const A> grad_output, std::span<const A> grad_probabilities,
                           MatrixView<A> grad_input) {
    const auto& kept = static_cast<const State&>(state);
    const bool with_input_gradients = grad_input.cols() > 0;
    experts_backward(kept, grad_output, grad_input);
    const bool trains_shared =
        has_shared() && std::any_of(this->linears().begin(), this->linears().end(),
                                    [](const ops::LoraLinear<T>& linear) { return linear.is_adapted(); });
    if (has_shared() && (with_input_gradients || trains_shared)) {
        shared_backward(pass, input, kept, grad_output, grad_input);
    }
    if (with_input_gradients) {
        route_backward(kept, grad_probabilities, grad_input);
    }
}

template class MoeLayer<bf16>;
template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace moesaic::model
