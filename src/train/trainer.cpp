#include "train/trainer.hpp"

#include "core/trace.hpp"
#include "mpi/progress.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

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

template <class T>
StepResult Trainer<T>::step() {
    const Scope scope(core::scopes::step);
    return update(compute_gradients());
}

template <class T>
train::StepReport Trainer<T>::compute_gradients() {
    begin_ns_ = now_ns();
    mpi::Progress& progress = parts_.grid.world().progress();
    progress.set_step(done_ + 1);
    const std::int64_t waited_before_ns = progress.waited_ns();
    train::StepReport report;
    const StepBatches batch = parts_.batches.at(done_);
    const double scale = batch.target_tokens > 0 ? 1.0 / static_cast<double>(batch.target_tokens) : 0.0;
    parts_.decoder.lora().clear_gradients();
    const model::Architecture& architecture = parts_.decoder.architecture();
    expert_counts_.assign(static_cast<std::size_t>(architecture.moe_layers() * architecture.experts), 0);
    auxiliary_loss_ = 0;
    for (const TokenBatch& pass : batch.passes) {
        const auto hidden = parts_.decoder.forward(pass, tape_, true);
        const auto targets = ops::targets_of(pass);
        grad_hidden_.resize(hidden.rows(), hidden.cols());
        for (const TargetResult& result : ops::cross_entropy<T>(parts_.kernels, hidden, parts_.decoder.head(), targets,
                                                                scale, grad_hidden_, loss_scratch_)) {
            report.loss_sum -= result.log_probability;
        }
        const model::RouterBalance balance = balance_of_pass(batch.passes.size());
        parts_.decoder.backward(tape_, grad_hidden_, balance.gradient);
        std::transform(expert_counts_.begin(), expert_counts_.end(), tape_.load.counts.begin(), expert_counts_.begin(),
                       std::plus<>());
        auxiliary_loss_ += balance.loss / static_cast<double>(batch.passes.size());
        report.tokens += pass.rows();
        report.target_tokens += static_cast<std::int64_t>(targets.size());
    }
    parts_.grid.world().sum(std::span<index_t>(expert_counts_));
    if (parts_.grid.world().is_root()) {
        trace_expert_counts(architecture, expert_counts_);
    }
    parts_.optimizer.reduce_gradients();
    report.squared_norm = parts_.optimizer.squared_norm();
    report.finite = std::isfinite(report.loss_sum) && std::isfinite(report.squared_norm);
    report.stop_requested = parts_.stop_requested();
    const std::int64_t waited_ns = progress.waited_ns() - waited_before_ns;
    report.busy_seconds = static_cast<double>(now_ns() - begin_ns_ - waited_ns) * 1e-9;
    return report;
}

template <class T>
model::RouterBalance Trainer<T>::balance_of_pass(std::size_t passes) {
    if (parts_.router_aux_coefficient == 0) {
        return {};
    }
    model::RouterBalance balance = model::router_balance(tape_.load, parts_.grid.world());
    for (double& gradient : balance.gradient) {
        gradient *= parts_.router_aux_coefficient / static_cast<double>(passes);
    }
    return balance;
}

template <class T>
StepResult Trainer<T>::update(const train::StepReport& report) {
    StepResult result;
    result.decision = parts_.coordinator.decide(report, done_ + 1);
    result.learning_rate = parts_.schedule.at(done_);
    if (result.decision.apply) {
        parts_.optimizer.step(result.learning_rate, result.decision.clip_scale);
        parts_.decoder.update_lora();
    }
    result.expert_load = model::expert_load(expert_counts_, parts_.decoder.architecture().experts);
    if (parts_.router_aux_coefficient != 0) {
        result.auxiliary_loss = auxiliary_loss_;
    }
    result.step = ++done_;
    result.seconds = static_cast<double>(now_ns() - begin_ns_) * 1e-9;
    return result;
}

namespace {

/// Sums of one rank over one batch.
struct BatchSums {
    double loss = 0;
    index_t target_tokens = 0;
    index_t sequences = 0;
    index_t exact_sequences = 0;
};

BatchSums sum_up(std::span<const ops::Target> targets, std::span<const TargetResult> results) {
    BatchSums sums;
    bool exact = false;
    for (std::size_t i = 0; i < targets.size(); ++i) {
        const bool first = i == 0 || targets[i].sequence != targets[i - 1].sequence;
        const bool last = i + 1 == targets.size() || targets[i].sequence != targets[i + 1].sequence;
        exact = (first || exact) && results[i].is_most_likely;
        sums.loss -= results[i].log_probability;
        sums.sequences += last ? 1 : 0;
        sums.exact_sequences += last && exact ? 1 : 0;
    }
    sums.target_tokens = static_cast<index_t>(targets.size());
    return sums;
}

}  // namespace

template <class T>
Evaluation evaluate(model::Decoder<T>& decoder, const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid,
                    const Dataset& data, index_t batch_size) {
    const Scope scope(core::scopes::evaluate);
    Evaluation total;
    model::Tape<T> tape;
    ops::LossScratch<T> scratch;
    std::vector<index_t> all(static_cast<std::size_t>(data.sequences()));
    std::iota(all.begin(), all.end(), index_t{0});
    for (std::size_t begin = 0; begin < all.size(); begin += static_cast<std::size_t>(batch_size)) {
        const auto sequences =
            std::span(all).subspan(begin, std::min(static_cast<std::size_t>(batch_size), all.size() - begin));
        const StepBatches batch = share_of(data, sequences, 0, grid.world().rank(), grid.world().size());
        const TokenBatch& pass = batch.passes.front();
        const auto hidden = decoder.forward(pass, tape, false);
        const auto targets = ops::targets_of(pass);
        const auto results = ops::cross_entropy<T>(kernels, hidden, decoder.head(), targets, 0, {}, scratch);
        const BatchSums mine = sum_up(targets, results);
        const double loss = grid.world().sum(mine.loss);
        std::array<index_t, 3> counts = {mine.target_tokens, mine.sequences, mine.exact_sequences};
        grid.world().sum(std::span<index_t>(counts));
        total.loss_sum += loss;
        total.target_tokens += counts[0];
        total.sequences += counts[1];
        total.exact_sequences += counts[2];
        total.batch_losses.push_back(counts[0] > 0 ? loss / static_cast<double>(counts[0]) : 0);
    }
    return total;
}

template <class T>
std::vector<double> target_log_probabilities(model::Decoder<T>& decoder, const kernels::KernelSet& kernels,
                                             const mpi::ProcessGrid& grid, const Dataset& data, index_t sequence) {
    model::Tape<T> tape;
    ops::LossScratch<T> scratch;
    const StepBatches batch = share_of(data, {&sequence, 1}, 0, grid.world().rank(), grid.world().size());
    const TokenBatch& pass = batch.passes.front();
    const auto hidden = decoder.forward(pass, tape, false);
    const auto targets = ops::targets_of(pass);
    // One rank has the sequence; the others contribute zeros.
    std::vector<double> log_probabilities(static_cast<std::size_t>(batch.target_tokens), 0.0);
    const auto results = ops::cross_entropy<T>(kernels, hidden, decoder.head(), targets, 0, {}, scratch);
    std::transform(results.begin(), results.end(), log_probabilities.begin(),
                   [](const TargetResult& result) { return result.log_probability; });
    grid.world().sum(std::span<double>(log_probabilities));
    return log_probabilities;
}

#define MOESAIC_INSTANTIATE(T)                                                                              \
    template class Trainer<T>;                                                                              \
    template Evaluation evaluate<T>(model::Decoder<T>&, const kernels::KernelSet&, const mpi::ProcessGrid&, \
                                    const Dataset&, index_t);                                               \
    template std::vector<double> target_log_probabilities<T>(model::Decoder<T>&, const kernels::KernelSet&, \
                                                             const mpi::ProcessGrid&, const Dataset&, index_t);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::train
