#include "model/feed_forward/moe_layer.hpp"

#include "core/trace.hpp"
#include "model/feed_forward/moe_plan.hpp"
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

template <class Sum>
void copy_softmax(const kernels::ElementwiseKernels<Sum>& kernels, MatrixView<const Sum> logits,
                  Matrix<Sum>& probabilities) {
    probabilities.resize(logits.rows(), logits.cols());
    const MatrixView<Sum> out = probabilities;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < logits.rows(); ++row) {
        std::copy_n(logits[row], logits.cols(), out[row]);
        ops::softmax<Sum>(kernels, out.row(row));
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
template <class Scalar>
class WaitsForWorker {
public:
    explicit WaitsForWorker(ops::ExpertBackend<Scalar>& experts) : experts_(experts) {}
    WaitsForWorker(const WaitsForWorker&) = delete;
    WaitsForWorker& operator=(const WaitsForWorker&) = delete;
    ~WaitsForWorker() { experts_.abandon(); }

private:
    ops::ExpertBackend<Scalar>& experts_;
};

}  // namespace

template <class Scalar>
MoeLayer<Scalar>::MoeLayer(const Architecture& architecture, index_t layer, BlockPlan plan,
                           const DecoderSettings& settings, const LoraParameters<Sum>& parameters,
                           Workspace<Scalar>& workspace)
    : Block<Scalar>(std::move(plan), parameters, workspace),
      architecture_(architecture),
      keeps_softmax_(keeps_softmax(architecture, settings)),
      shared_(settings.activations, workspace),
      router_weight_(architecture.experts, architecture.hidden) {
    if (architecture.router.has_correction_bias) {
        correction_bias_.resize(1, architecture.experts);
    }
    if (architecture.shared.gated) {
        shared_gate_.resize(1, architecture.hidden);
    }
    ops::ExpertConfig config = config_of_experts(architecture, layer, settings, this->plan());
    config.weight_format = ops::format_for<Scalar>(config.weight_format);
    experts_ = std::make_unique<ops::GroupedExperts<Scalar>>(config, workspace.experts, workspace.kernels);
    if (!experts_->config().skip_lora) {
        ops::ExpertFactors<const Sum> values;
        ops::ExpertFactors<Sum> gradients;
        for (const ops::Projection p : ops::projections) {
            const ProjectionFactors<Sum> factors = parameters.factors_of(routed(p));
            values[p] = factors.values;
            gradients[p] = factors.gradients;
        }
        experts_->init_lora(values, gradients);
    }
}

template <class Scalar>
const ProjectionPlan& MoeLayer<Scalar>::routed(ops::Projection p) const {
    return routed_projections(this->plan())[static_cast<std::size_t>(p)];
}

template <class Scalar>
void MoeLayer<Scalar>::update_lora() {
    Block<Scalar>::update_lora();
    if (!experts_->config().skip_lora) {
        experts_->update_lora();
    }
}

template <class Scalar>
std::vector<MatrixView<accumulator_t<Scalar>>> MoeLayer<Scalar>::tensors() {
    std::vector<MatrixView<Sum>> all = {router_weight_};
    for (Matrix<Sum>* tensor : {&correction_bias_, &shared_gate_}) {
        if (tensor->size() > 0) {
            all.push_back(*tensor);
        }
    }
    return all;
}

template <class Scalar>
void MoeLayer<Scalar>::load(const WeightSource<Scalar>& source) {
    Block<Scalar>::load(source);
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

template <class Scalar>
void MoeLayer<Scalar>::route(MatrixView<const Sum> input, State& state) const {
    const Scope scope(core::scopes::router_forward);
    const index_t rows = input.rows();
    state.scores.resize(rows, architecture_.experts);
    state.expert_ids.resize(rows, architecture_.experts_per_token);
    state.expert_weights.resize(rows, architecture_.experts_per_token);
    this->kernels().run(kernels::product<Sum>(input, false, router_weight_, true, state.scores));
    const kernels::ElementwiseKernels<Sum>& row_kernels = this->kernels().template elementwise<Sum>();
    if (keeps_softmax_) {
        copy_softmax<Sum>(row_kernels, state.scores, state.probabilities);
    }
    ops::route_forward<Sum>(row_kernels, architecture_.router, correction_bias_.flat(), state.scores, state.expert_ids,
                            state.expert_weights);
    const bool scores_are_softmax = architecture_.router.scoring == ops::Scoring::softmax;
    state.routing_of_rows = {state.expert_ids, scores_are_softmax ? state.scores : state.probabilities};
}

template <class Scalar>
void MoeLayer<Scalar>::route_backward(const State& state, std::span<const Sum> grad_probabilities,
                                      MatrixView<Sum> grad_input) const {
    const Scope scope(core::scopes::router_backward);
    RouterScratch<Scalar>& work = this->workspace().router;
    work.grad_logits.resize(grad_input.rows(), architecture_.experts);
    ops::route_backward<Sum>(architecture_.router, state.scores, state.expert_ids, state.expert_weights,
                             work.grad_weights, work.grad_logits);
    if (!grad_probabilities.empty()) {
        add_balance_gradient<Sum>(state.routing_of_rows.probabilities, grad_probabilities, work.grad_logits);
    }
    this->kernels().run(kernels::product<Sum>(work.grad_logits, false, router_weight_, false, grad_input, 1, true));
}

template <class Scalar>
void MoeLayer<Scalar>::run_experts(const Pass<Scalar>& pass, MatrixView<const Scalar> input, State& state,
                                   MatrixView<Sum> output, bool keep) {
    TokenExchange<Scalar>& exchange = this->workspace().exchange;
    exchange.plan(pass.rows_of_ranks, state.expert_ids, state.routes);
    state.chunks.resize(state.routes.size());
    const ops::ExpertRows<Scalar> mine = {input, state.expert_ids, state.expert_weights, pass.dropout()};
    const auto bring = [&](std::size_t c) { return exchange.dispatch(state.routes[c], mine, state.chunks[c].arrived); };
    if (output.cols() == 0) {  // what else a backward needs, it computes itself
        for (std::size_t c = 0; c < state.routes.size(); ++c) {
            experts_->save(bring(c), state.chunks[c].experts);
        }
        return;
    }
    const auto give_back = [&](std::size_t c, MatrixView<const Sum> partial) {
        exchange.combine(state.routes[c], partial, output);
    };
    if (state.routes.size() == 1) {
        ops::SavedExperts<Scalar>& saved = state.chunks[0].experts;
        if (exchange.is_alone()) {
            experts_->forward(bring(0), saved, keep, output);
        } else {
            give_back(0, experts_->forward(bring(0), saved, keep));
        }
        return;
    }
    const auto submit = [&](std::size_t c, const ops::ExpertRows<Scalar>& rows) {
        experts_->submit_forward(rows, state.chunks[c].experts, keep);
    };
    const WaitsForWorker<Scalar> guard(*experts_);
    run_pipeline(
        state.routes.size(), [](std::size_t i) { return i; }, bring, submit, [&] { return experts_->sync_forward(); },
        give_back);
}

template <class Scalar>
void MoeLayer<Scalar>::experts_backward(const State& state, MatrixView<const Sum> grad_output,
                                        MatrixView<Sum> grad_input) {
    const bool with_input_gradients = grad_input.cols() > 0;  // the same on all ranks, unlike the rows
    TokenExchange<Scalar>& exchange = this->workspace().exchange;
    Matrix<Sum>& grad_weights = this->workspace().router.grad_weights;
    grad_weights.resize(grad_output.rows(), architecture_.experts_per_token);
    const auto bring = [&](std::size_t c) { return exchange.dispatch_gradient(state.routes[c], grad_output); };
    const std::size_t chunks = state.routes.size();
    const bool writes_in_place = chunks == 1 && exchange.is_alone();
    const auto give_back = [&](std::size_t c, const ops::ExpertGradients<Scalar>& partial) {
        if (with_input_gradients) {
            if (!writes_in_place) {
                exchange.combine(state.routes[c], partial.input, grad_input);
            }
            exchange.combine_weights(state.routes[c], partial.weights, grad_weights);
        }
    };
    if (chunks == 1) {
        give_back(0, experts_->backward(state.chunks[0].experts, bring(0), with_input_gradients,
                                        writes_in_place ? grad_input : MatrixView<Sum>()));
        return;
    }
    const auto submit = [&](std::size_t c, MatrixView<const Scalar> rows) {
        experts_->submit_backward(state.chunks[c].experts, rows, with_input_gradients);
    };
    const WaitsForWorker<Scalar> guard(*experts_);
    run_pipeline(
        chunks, [&](std::size_t i) { return chunks - 1 - i; }, bring, submit, [&] { return experts_->sync_backward(); },
        give_back);
}

template <class Scalar>
void MoeLayer<Scalar>::run_shared(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, State& state,
                                  MatrixView<Sum> output) const {
    const index_t rows = pass.rows();
    const bool gated = shared_gate_.size() > 0;
    if (gated) {
        state.shared_weights.resize(rows, 1);
        this->kernels().run(kernels::product<Sum>(input.exact, false, shared_gate_, true, state.shared_weights));
        for (Sum& weight : state.shared_weights.flat()) {
            weight = 1 / (1 + std::exp(-weight));
        }
    }
    Matrix<Sum>& own = this->workspace().router.shared_output;
    own.resize(rows, output.cols());
    shared_.forward(pass, shared_projections(), input, state.shared, own,
                    gated ? state.shared_weights.data() : nullptr);
    const MatrixView<const Sum> result = own;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < rows; ++row) {
        this->kernels().template elementwise<Scalar>().add(output.cols(), result[row], output[row], output[row]);
    }
}

template <class Scalar>
void MoeLayer<Scalar>::shared_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const State& state,
                                       MatrixView<const Sum> grad_output, MatrixView<Sum> grad_input) const {
    if (shared_gate_.size() == 0) {
        shared_.backward(pass, shared_projections(), input, state.shared, grad_output, grad_input, true);
        return;
    }
    Matrix<Sum>& grad_weights = this->workspace().router.shared_grad_weights;
    grad_weights.resize(grad_output.rows(), 1);
    shared_.backward(pass, shared_projections(), input, state.shared, grad_output, grad_input, true,
                     {state.shared_weights.data(), grad_weights.data()});
    if (grad_input.empty()) {
        return;
    }
    const MatrixView<const Sum> weights = state.shared_weights;
    for (index_t row = 0; row < weights.rows(); ++row) {
        grad_weights.view()(row, 0) *= weights(row, 0) * (1 - weights(row, 0));
    }
    this->kernels().run(kernels::product<Sum>(grad_weights, false, shared_gate_, false, grad_input, 1, true));
}

template <class Scalar>
void MoeLayer<Scalar>::forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input,
                               BlockState<Scalar>& state, MatrixView<Sum> output, bool keep) {
    auto& kept = static_cast<State&>(state);
    route(input.exact, kept);
    run_experts(pass, input.rounded, kept, output, keep);
    if (has_shared()) {
        run_shared(pass, input, kept, output);
    }
}

template <class Scalar>
void MoeLayer<Scalar>::backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input,
                                const BlockState<Scalar>& state, MatrixView<const Sum> grad_output,
                                std::span<const Sum> grad_probabilities, MatrixView<Sum> grad_input) {
    const auto& kept = static_cast<const State&>(state);
    const bool with_input_gradients = grad_input.cols() > 0;
    experts_backward(kept, grad_output, grad_input);
    const bool trains_shared =
        has_shared() && std::any_of(this->linears().begin(), this->linears().end(),
                                    [](const ops::LoraLinear<Scalar>& linear) { return linear.is_adapted(); });
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
