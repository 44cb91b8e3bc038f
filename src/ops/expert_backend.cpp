#include "ops/expert_backend.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/trace.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace moesaic::ops {
namespace {

using core::bf16;
using core::ExitCode;

template <class S>
void check_shape(const char* what, index_t layer, MatrixView<S> view, index_t rows, index_t cols) {
    core::require(view.rows() == rows && view.cols() == cols, ExitCode::runtime_failure,
                  "layer {}: {} is [{}, {}] (expected [{}, {}]); pass views of the configured sizes", layer, what,
                  view.rows(), view.cols(), rows, cols);
}

template <class S>
void check_factors(const ExpertConfig& config, const ExpertFactors<S>& factors) {
    for (const Projection p : projections) {
        const bool down = p == Projection::down;
        const index_t in = down ? config.intermediate : config.hidden;
        const index_t out = down ? config.hidden : config.intermediate;
        check_shape("LoRA A", config.layer, factors[p].a, config.experts * config.lora_rank, in);
        check_shape("LoRA B", config.layer, factors[p].b, config.experts * out, config.lora_rank);
    }
}

void check_config(const ExpertConfig& config) {
    const auto positive = [&](const char* what, auto value) {
        core::require(value > 0, ExitCode::usage, "layer {}: {} = {} (must be positive); correct the configuration",
                      config.layer, what, value);
    };
    positive("number of experts", config.experts);
    positive("experts per token", config.experts_per_token);
    positive("hidden size", config.hidden);
    positive("intermediate size", config.intermediate);
    positive("largest token count", config.max_tokens);
    if (!config.skip_lora) {
        positive("LoRA rank", config.lora_rank);
        positive("LoRA alpha", config.lora_alpha);
        for (const std::vector<double>& scales : config.lora_scales) {
            core::require(scales.empty() || scales.size() == static_cast<std::size_t>(config.experts), ExitCode::usage,
                          "layer {}: {} LoRA scales (expected {}, one per expert); correct the configuration",
                          config.layer, scales.size(), config.experts);
        }
    }
    core::require(config.experts_per_token <= config.all_experts(), ExitCode::usage,
                  "layer {}: {} per token (the layer has {}); correct the configuration", config.layer,
                  core::counted(config.experts_per_token, "expert"), config.all_experts());
    core::require(config.experts_begin >= 0 && config.experts_begin + config.experts <= config.all_experts(),
                  ExitCode::usage, "layer {}: experts {} to {} (the layer has {}); correct the configuration",
                  config.layer, config.experts_begin, config.experts_begin + config.experts - 1, config.all_experts());
}

}  // namespace

double ExpertConfig::lora_scale(Projection projection, index_t expert) const {
    if (skip_lora) {
        return 0;
    }
    const std::vector<double>& scales = lora_scales[static_cast<std::size_t>(projection)];
    if (!scales.empty()) {
        return scales[static_cast<std::size_t>(expert)];
    }
    return lora_alpha / static_cast<double>(lora_rank);
}

template <class Scalar>
void ExpertWorkspace<Scalar>::clear_cache() {
    for (Matrix<Sum>* matrix : {&results, &grad_weights, &weight_gradient_sums}) {
        *matrix = {};
    }
    synced = {};
    chunks = {};
    row_weights = {};
    activated = {};
    dropped = {};
    rows_out = {};
    rows_of_token = {};
    recomputed = {};
    activation = {};
    grad_pre_activations = {};
    grad_low_rank = {};
    low_rank_down = {};
    std::vector<ThreadScratch<Scalar>>().swap(of_thread);
}

template <class Scalar>
ExpertBackend<Scalar>::ExpertBackend(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<Scalar>> workspace)
    : config_(config), workspace_(std::move(workspace)) {
    check_config(config_);
    if (config_.skip_lora) {
        config_.lora_rank = 0;
    }
}

template <class Scalar>
void ExpertBackend<Scalar>::load_weights(const ExpertWeightSource& source) {
    do_load_weights(source);
    has_weights_ = true;
}

template <class Scalar>
void ExpertBackend<Scalar>::init_lora(const ExpertFactors<const Sum>& factors, const ExpertFactors<Sum>& gradients) {
    core::require(!config_.skip_lora, ExitCode::runtime_failure,
                  "layer {}: init_lora on frozen experts (skip_lora is set); create the layer with a LoRA rank",
                  config_.layer);
    check_factors(config_, factors);
    check_factors(config_, gradients);
    factors_ = factors;
    gradients_ = gradients;
    has_lora_ = true;
    do_update_lora();
}

template <class Scalar>
void ExpertBackend<Scalar>::update_lora() {
    core::require(has_lora_, ExitCode::runtime_failure,
                  "layer {}: update_lora without factors (init_lora was not called); call it first", config_.layer);
    do_update_lora();
}

template <class Scalar>
void ExpertBackend<Scalar>::require_ready(const char* operation) const {
    core::require(!workspace_->in_flight, ExitCode::runtime_failure,
                  "layer {}: {} while a submission is in flight (work buffers are shared); sync it first",
                  config_.layer, operation);
    core::require(has_weights_, ExitCode::runtime_failure, "layer {}: {} without weights; call load_weights first",
                  config_.layer, operation);
    core::require(has_lora_ || config_.skip_lora, ExitCode::runtime_failure,
                  "layer {}: {} without LoRA factors; call init_lora first, or set skip_lora", config_.layer,
                  operation);
}

template <class Scalar>
void ExpertBackend<Scalar>::check_forward(const ExpertRows<Scalar>& rows) const {
    require_ready("forward");
    const index_t tokens = rows.hidden.rows();
    core::require(tokens <= config_.max_tokens, ExitCode::runtime_failure,
                  "layer {}: forward of {} (the configured maximum is {}); raise max_tokens or split the batch",
                  config_.layer, core::counted(tokens, "token"), config_.max_tokens);
    check_shape("hidden", config_.layer, rows.hidden, tokens, config_.hidden);
    check_shape("expert_ids", config_.layer, rows.expert_ids, tokens, config_.experts_per_token);
    check_shape("weights", config_.layer, rows.weights, tokens, config_.experts_per_token);
    const auto identities = static_cast<index_t>(rows.dropout.rows.size());
    core::require(!rows.dropout.is_active() || identities == tokens, ExitCode::runtime_failure,
                  "layer {}: dropout knows {} (the forward has {}); pass one per token", config_.layer,
                  core::counted(identities, "token"), tokens);
    for (index_t t = 0; t < tokens; ++t) {
        for (const std::int32_t expert : rows.expert_ids.row(t)) {
            core::require(expert >= 0 && expert < config_.all_experts(), ExitCode::runtime_failure,
                          "layer {}: token {} asks for expert {} (experts are 0 to {}); correct the routing",
                          config_.layer, t, expert, config_.all_experts() - 1);
        }
    }
}

template <class Scalar>
void ExpertBackend<Scalar>::check_backward(const SavedExperts<Scalar>& saved,
                                           MatrixView<const Scalar> grad_output) const {
    require_ready("backward");
    const index_t tokens = saved.hidden.rows();
    core::require(grad_output.rows() == tokens, ExitCode::runtime_failure,
                  "layer {}: backward of {} (the saved forward had {}); pass the gradient of that forward",
                  config_.layer, core::counted(grad_output.rows(), "token"), tokens);
    check_shape("grad_output", config_.layer, grad_output, tokens, config_.hidden);
}

template <class Scalar>
MatrixView<accumulator_t<Scalar>> ExpertBackend<Scalar>::results(const char* what, index_t tokens,
                                                                 MatrixView<Sum> given, Matrix<Sum>& own) const {
    if (given.data() == nullptr) {
        own.resize(tokens, config_.hidden);
        return own;
    }
    check_shape(what, config_.layer, given, tokens, config_.hidden);
    return given;
}

template <class Scalar>
void ExpertBackend<Scalar>::save_rows(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved) const {
    saved.hidden = rows.hidden;
    saved.weights = rows.weights;
    saved.dropout = rows.dropout;
    sort_by_expert(rows.expert_ids, config_.experts_begin, config_.experts, saved.routed);
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertBackend<Scalar>::run_forward(const ExpertRows<Scalar>& rows,
                                                                           SavedExperts<Scalar>& saved, bool keep,
                                                                           MatrixView<Sum> output) {
    const core::trace::Scope scope(core::scopes::experts_forward);
    save_rows(rows, saved);
    const MatrixView<Sum> result = results("output", rows.hidden.rows(), output, workspace_->results);
    do_forward(saved, keep, result);
    return result;
}

template <class Scalar>
ExpertGradients<Scalar> ExpertBackend<Scalar>::run_backward(const SavedExperts<Scalar>& saved,
                                                            MatrixView<const Scalar> grad_output,
                                                            bool with_input_gradients, MatrixView<Sum> grad_input) {
    const core::trace::Scope scope(core::scopes::experts_backward);
    const MatrixView<Sum> result = with_input_gradients
                                       ? results("grad_input", grad_output.rows(), grad_input, workspace_->results)
                                       : MatrixView<Sum>();
    workspace_->grad_weights.resize(grad_output.rows(), config_.experts_per_token);
    workspace_->grad_weights.fill(Sum(0));  // of choices that are other ranks' business
    do_backward(saved, grad_output, with_input_gradients, result);
    if (!with_input_gradients) {
        return {};
    }
    return {result, workspace_->grad_weights.view()};
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertBackend<Scalar>::forward(const ExpertRows<Scalar>& rows,
                                                                       SavedExperts<Scalar>& saved, bool keep,
                                                                       MatrixView<Sum> output) {
    check_forward(rows);
    return run_forward(rows, saved, keep, output);
}

template <class Scalar>
void ExpertBackend<Scalar>::save(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved) const {
    core::require(config_.activations != Activations::retain, ExitCode::runtime_failure,
                  "layer {}: save without a forward (gate and up are retained); call forward", config_.layer);
    check_forward(rows);
    save_rows(rows, saved);
}

template <class Scalar>
ExpertGradients<Scalar> ExpertBackend<Scalar>::backward(const SavedExperts<Scalar>& saved,
                                                        MatrixView<const Scalar> grad_output, bool with_input_gradients,
                                                        MatrixView<Sum> grad_input) {
    check_backward(saved, grad_output);
    return run_backward(saved, grad_output, with_input_gradients, grad_input);
}

template <class Scalar>
void ExpertBackend<Scalar>::submit(Pending kind, std::function<void()> job) {
    workspace_->in_flight = true;
    pending_ = kind;
    workspace_->worker.submit(std::move(job));
}

template <class Scalar>
void ExpertBackend<Scalar>::sync(Pending kind, const char* operation) {
    core::require(pending_ == kind, ExitCode::runtime_failure,
                  "layer {}: {} without a submission of that kind; call the matching submit first", config_.layer,
                  operation);
    pending_ = Pending::nothing;
    workspace_->in_flight = false;  // also if the job failed: the next submission may follow
    {
        const core::trace::Scope scope(core::scopes::experts_wait);
        workspace_->worker.wait();
    }
    workspace_->set_results_aside();
}

template <class Scalar>
void ExpertBackend<Scalar>::abandon() noexcept {
    if (pending_ != Pending::nothing) {
        try {
            sync(pending_, "abandon");
        } catch (...) {
            // Nobody wants the result, nor its error: one is on its way already.
        }
    }
}

template <class Scalar>
void ExpertBackend<Scalar>::submit_forward(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved, bool keep) {
    check_forward(rows);
    submit(Pending::forward, [this, rows, &saved, keep] { pending_output_ = run_forward(rows, saved, keep); });
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertBackend<Scalar>::sync_forward() {
    sync(Pending::forward, "sync_forward");
    return pending_output_;
}

template <class Scalar>
void ExpertBackend<Scalar>::submit_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,
                                            bool with_input_gradients) {
    check_backward(saved, grad_output);
    submit(Pending::backward, [this, &saved, grad_output, with_input_gradients] {
        pending_gradients_ = run_backward(saved, grad_output, with_input_gradients);
    });
}

template <class Scalar>
ExpertGradients<Scalar> ExpertBackend<Scalar>::sync_backward() {
    sync(Pending::backward, "sync_backward");
    return pending_gradients_;
}

template <class Scalar>
void ExpertBackend<Scalar>::clear_cache() {
    core::require(!workspace_->in_flight, ExitCode::runtime_failure,
                  "layer {}: clear_cache while a submission is in flight; sync it first", config_.layer);
    workspace_->clear_cache();
}

template struct ExpertWorkspace<bf16>;
template struct ExpertWorkspace<float>;
template struct ExpertWorkspace<double>;
template class ExpertBackend<bf16>;
template class ExpertBackend<float>;
template class ExpertBackend<double>;

}  // namespace moesaic::ops
