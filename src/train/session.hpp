// One training run, put together: model, optimizer, coordinator and batches, and the steps that they take.
#pragma once

#include "core/options.hpp"
#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "mpi/process_grid.hpp"
#include "ops/loss.hpp"
#include "train/adamw.hpp"
#include "train/adapter_store.hpp"
#include "train/batches.hpp"
#include "train/coordinator.hpp"
#include "train/dataset.hpp"
#include "train/evaluation.hpp"
#include "train/run_state.hpp"
#include "train/train_settings.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace moesaic::train {

/// What became of one optimizer step.
struct StepResult {
    index_t step = 0;  ///< from 1
    double learning_rate = 0;
    double seconds = 0;
    Decision decision;
    model::ExpertLoad expert_load;
    std::optional<double> auxiliary_loss;  ///< if it is trained on: the mean of the passes, without its coefficient
};

/// Scalar: bf16 or float. To construct and all member functions that compute, read or write are collective.
template <class Scalar>
class TrainSession {
public:
    /// `data` and `kernels` must outlive the object. `stop_requested` is asked once per step on every rank. LoRA
    /// factors are zero until one of the functions below, or the caller, fills them.
    TrainSession(
        std::unique_ptr<model::Decoder<Scalar>> decoder, const Dataset& data, const TrainSettings& settings,
        const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid,
        std::function<bool()> stop_requested = [] { return false; });
    TrainSession(const TrainSession&) = delete;  // members refer to each other
    TrainSession& operator=(const TrainSession&) = delete;

    /// Factors as PEFT initialises them.
    void start();
    /// Factors of an adapter.
    void start_from(const std::filesystem::path& adapter);
    /// Factors, moments and step of a checkpoint, which must be one of this model, data and settings.
    void resume(const std::filesystem::path& checkpoint);
    /// Writes the checkpoint of the present step, as the function of this name in run_state.hpp.
    void save_checkpoint(const std::filesystem::path& folder, int keep,
                         const std::vector<core::OptionSet::Setting>& options) const;

    /// Whether a stop was requested on any rank since the last step.
    [[nodiscard]] bool stop_requested() const;
    /// The step after the ones done so far.
    StepResult step();
    /// First half of a step: gradients of the data of this step, reduced to their owners.
    StepSummary compute_gradients();
    /// Second half: the decision of all ranks, and the update.
    StepResult update(const StepSummary& summary);

    /// Calls `use` on rank 0 for every full tensor of the gradients; see AdapterStore::for_each_tensor.
    void for_each_gradient(const AdapterStore::Use& use) const;
    /// In batches of the size of a pass; `goes_on` as in EvaluationSettings.
    [[nodiscard]] Evaluation evaluate(
        const Dataset& data, const std::function<bool(index_t done)>& goes_on = [](index_t) { return true; });

    [[nodiscard]] index_t steps_done() const noexcept { return done_; }
    /// Of the next step.
    [[nodiscard]] double learning_rate() const { return settings_.schedule.at(done_); }
    /// Steps so far that changed the adapter.
    [[nodiscard]] index_t updates() const noexcept { return optimizer_.updates(); }
    /// Steps of the whole run.
    [[nodiscard]] index_t total_steps() const noexcept { return settings_.schedule.total_steps; }
    [[nodiscard]] model::Decoder<Scalar>& decoder() const noexcept { return *decoder_; }
    [[nodiscard]] const AdapterStore& store() const noexcept { return store_; }

private:
    [[nodiscard]] RunState state() const;
    /// Adds loss and targets of a pass to the summary; its gradient with respect to `hidden` is in `grad_hidden_`.
    void add_loss(const ops::TokenBatch& pass, core::MatrixView<const Scalar> hidden, double scale,
                  StepSummary& summary);
    /// The loss of the routers' balance in the pass that `tape_` holds; its gradient is scaled for a step of `passes`.
    model::RouterBalance balance_of_pass(std::size_t passes);
    void share_expert_counts();

    const kernels::KernelSet& kernels_;
    mpi::ProcessGrid grid_;
    const Dataset& data_;
    TrainSettings settings_;
    std::function<bool()> stop_requested_;
    std::unique_ptr<model::Decoder<Scalar>> decoder_;
    AdapterStore store_;
    ShardedAdamW optimizer_;
    GradientCoordinator coordinator_;
    Batches batches_;
    model::Tape<Scalar> tape_;
    ops::LossScratch<Scalar> loss_scratch_;
    core::Matrix<float> grad_hidden_;     // [T, H]; after backward that of a stream
    std::vector<index_t> expert_counts_;  // [MoE layers * E] of the step, all ranks
    double auxiliary_loss_ = 0;
    std::int64_t begin_ns_ = 0;
    index_t done_ = 0;
};

}  // namespace moesaic::train
