#include "train/session.hpp"

#include "core/trace.hpp"
#include "mpi/progress.hpp"

#include <cmath>
#include <string>
#include <utility>

namespace moesaic::train {

using core::bf16;
using core::trace::now_ns;
using core::trace::Scope;
using ops::TargetResult;
using ops::TokenBatch;

namespace {

/// The trace's counters of an optimizer step: tokens of all ranks. counts: [MoE layers * E]
void trace_expert_counts(const model::Architecture& architecture, std::span<const index_t> counts) {
    const auto experts = static_cast<std::size_t>(architecture.experts);
    for (index_t layer = 0; layer < architecture.layers && core::trace::enabled(); ++layer) {
        if (architecture.is_moe[static_cast<std::size_t>(layer)]) {
            core::trace::count(std::string(core::counters::tokens_per_expert) + "layer " + std::to_string(layer), {},
                               {counts.begin(), counts.begin() + architecture.experts});
            counts = counts.subspan(experts);
        }
    }
}

}  // namespace

template <class Scalar>
TrainSession<Scalar>::TrainSession(std::unique_ptr<model::Decoder<Scalar>> decoder, const Dataset& data,
                                   const TrainSettings& settings, const kernels::KernelSet& kernels,
                                   const mpi::ProcessGrid& grid, std::function<bool()> stop_requested)
    : kernels_(kernels),
      grid_(grid),
      data_(data),
      settings_(settings),
      stop_requested_(std::move(stop_requested)),
      decoder_(std::move(decoder)),
      store_(decoder_->lora(), grid),
      optimizer_(decoder_->lora(), kernels, grid, settings.adamw),
      coordinator_(grid.world(), settings.coordinator),
      batches_(data, settings.batches, static_cast<std::uint64_t>(settings.seed), grid.world().rank(),
               dealing_for(decoder_->architecture(), grid.shape())) {
    settings_.schedule.total_steps = settings.total_steps(data.epoch_size());
}

template <class Scalar>
void TrainSession<Scalar>::start() {
    decoder_->lora().initialise(static_cast<std::uint64_t>(settings_.seed));
    decoder_->update_lora();
}

template <class Scalar>
void TrainSession<Scalar>::start_from(const std::filesystem::path& adapter) {
    grid_.world().agree([&] { store_.load(adapter, decoder_->architecture()); });
    decoder_->update_lora();
}

template <class Scalar>
void TrainSession<Scalar>::resume(const std::filesystem::path& checkpoint) {
    grid_.world().agree(
        [&] { done_ = load_checkpoint(checkpoint, state(), decoder_->architecture(), store_, optimizer_).step; });
    decoder_->update_lora();
}

template <class Scalar>
void TrainSession<Scalar>::save_checkpoint(const std::filesystem::path& folder, int keep,
                                           const std::vector<core::OptionSet::Setting>& options) const {
    train::save_checkpoint(folder, keep, state(), options, decoder_->architecture(), store_, optimizer_);
}

template <class Scalar>
bool TrainSession<Scalar>::stop_requested() const {
    return grid_.world().max<std::int64_t>(stop_requested_() ? 1 : 0) != 0;
}

template <class Scalar>
RunState TrainSession<Scalar>::state() const {
    return {.step = done_,
            .batch_size = settings_.batches.batch_size,
            .shuffle = settings_.batches.shuffle,
            .seed = static_cast<std::uint64_t>(settings_.seed),
            .data_fingerprint = data_.fingerprint(),
            .model_fingerprint = decoder_->weights_fingerprint()};
}

template <class Scalar>
StepResult TrainSession<Scalar>::step() {
    const Scope scope(core::scopes::step);
    return update(compute_gradients());
}

template <class Scalar>
StepSummary TrainSession<Scalar>::compute_gradients() {
    begin_ns_ = now_ns();
    mpi::Progress& progress = grid_.world().progress();
    progress.set_step(done_ + 1);
    const std::int64_t waited_before_ns = progress.waited_ns();
    const model::Architecture& architecture = decoder_->architecture();
    expert_counts_.assign(static_cast<std::size_t>(architecture.moe_layers() * architecture.experts), 0);
    auxiliary_loss_ = 0;
    decoder_->lora().clear_gradients();

    StepSummary summary;
    const StepBatches batch = batches_.at(done_);
    const double scale = batch.target_tokens > 0 ? 1.0 / static_cast<double>(batch.target_tokens) : 0.0;
    for (const TokenBatch& pass : batch.passes) {
        const auto hidden = decoder_->forward(pass, tape_, true);
        add_loss(pass, hidden, scale, summary);
        const model::RouterBalance balance = balance_of_pass(batch.passes.size());
        decoder_->backward(tape_, grad_hidden_, balance.gradient);
        std::transform(expert_counts_.begin(), expert_counts_.end(), tape_.load.counts.begin(), expert_counts_.begin(),
                       std::plus<>());
    }
    share_expert_counts();
    optimizer_.reduce_gradients();
    summary.squared_norm = optimizer_.squared_norm();
    summary.finite = std::isfinite(summary.loss_sum) && std::isfinite(summary.squared_norm);
    summary.stop_requested = stop_requested_();
    const std::int64_t waited_ns = progress.waited_ns() - waited_before_ns;
    summary.busy_seconds = static_cast<double>(now_ns() - begin_ns_ - waited_ns) * 1e-9;
    return summary;
}

template <class Scalar>
void TrainSession<Scalar>::add_loss(const TokenBatch& pass, core::MatrixView<const Scalar> hidden, double scale,
                                    StepSummary& summary) {
    const auto targets = ops::targets_of(pass);
    grad_hidden_.resize(hidden.rows(), hidden.cols());
    for (const TargetResult& result :
         ops::cross_entropy<Scalar>(kernels_, hidden, decoder_->head(), targets, scale, grad_hidden_, loss_scratch_)) {
        summary.loss_sum -= result.log_probability;
    }
    summary.tokens += pass.rows();
    summary.target_tokens += static_cast<std::int64_t>(targets.size());
}

template <class Scalar>
model::RouterBalance TrainSession<Scalar>::balance_of_pass(std::size_t passes) {
    if (settings_.router_aux_coefficient == 0) {
        return {};
    }
    model::RouterBalance balance = model::router_balance(tape_.load, grid_.world());
    for (double& gradient : balance.gradient) {
        gradient *= settings_.router_aux_coefficient / static_cast<double>(passes);
    }
    auxiliary_loss_ += balance.loss / static_cast<double>(passes);
    return balance;
}

template <class Scalar>
void TrainSession<Scalar>::share_expert_counts() {
    grid_.world().sum(std::span<index_t>(expert_counts_));
    if (grid_.world().is_root()) {
        trace_expert_counts(decoder_->architecture(), expert_counts_);
    }
}

template <class Scalar>
StepResult TrainSession<Scalar>::update(const StepSummary& summary) {
    StepResult result;
    result.decision = coordinator_.decide(summary, done_ + 1);
    result.learning_rate = learning_rate();
    if (result.decision.apply) {
        optimizer_.step(result.learning_rate, result.decision.clip_scale);
        decoder_->update_lora();
    }
    result.expert_load = model::expert_load(expert_counts_, decoder_->architecture().experts);
    if (settings_.router_aux_coefficient != 0) {
        result.auxiliary_loss = auxiliary_loss_;
    }
    result.step = ++done_;
    result.seconds = static_cast<double>(now_ns() - begin_ns_) * 1e-9;
    return result;
}

template <class Scalar>
void TrainSession<Scalar>::for_each_gradient(const AdapterStore::Use& use) const {
    store_.for_each_tensor([this](std::size_t bucket) { return optimizer_.gather(bucket, OwnedData::gradients); }, use);
}

template <class Scalar>
Evaluation TrainSession<Scalar>::evaluate(const Dataset& data, const std::function<bool(index_t)>& goes_on) {
    return train::evaluate<Scalar>(
        *decoder_, kernels_, grid_, data,
        {.batch_size = settings_.batches.per_pass(grid_.world().size()), .goes_on = goes_on});
}

template class TrainSession<bf16>;
template class TrainSession<float>;

}  // namespace moesaic::train
