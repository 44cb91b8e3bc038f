// One optimizer step after the other, and evaluation.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "model/feed_forward/router_balance.hpp"
#include "mpi/process_grid.hpp"
#include "ops/loss.hpp"
#include "train/adamw.hpp"
#include "train/batches.hpp"
#include "train/coordinator.hpp"
#include "train/dataset.hpp"
#include "train/schedule.hpp"

#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace moesaic::train {

/// What became of one optimizer step.
struct StepResult {
    index_t step = 0;  ///< from 1
    double learning_rate = 0;
    double seconds = 0;
    train::Decision decision;
    model::ExpertLoad expert_load;
    std::optional<double> auxiliary_loss;  ///< if it is trained on: the mean of the passes, without its coefficient
};

/// Sums over all sequences of a data set.
struct Evaluation {
    double loss_sum = 0;  ///< of negative log-probabilities
    index_t target_tokens = 0;
    index_t sequences = 0;             ///< with at least one target
    index_t exact_sequences = 0;       ///< all of whose targets are the most likely tokens (teacher forcing)
    std::vector<double> batch_losses;  ///< per target token, of each batch in file order

    [[nodiscard]] double loss() const { return target_tokens > 0 ? loss_sum / static_cast<double>(target_tokens) : 0; }
    [[nodiscard]] double exact_percent() const {
        return sequences > 0 ? 100.0 * static_cast<double>(exact_sequences) / static_cast<double>(sequences) : 0;
    }
};

/// The parts of a training run; all must outlive the trainer.
template <class T>
struct TrainerParts {
    model::Decoder<T>& decoder;
    const kernels::KernelSet& kernels;
    const mpi::ProcessGrid& grid;
    ShardedAdamW& optimizer;
    train::GradientCoordinator& coordinator;
    Batches& batches;
    Schedule schedule;
    std::function<bool()> stop_requested;  ///< asked once per step on every rank
    double router_aux_coefficient = 0;     ///< of the routers' auxiliary loss; needs a decoder with keep_probabilities
};

/// T: bf16 or float. All member functions are collective.
template <class T>
class Trainer {
public:
    explicit Trainer(const TrainerParts<T>& parts) : parts_(parts) {}

    /// The step after the ones done so far.
    StepResult step();

    /// First half of a step: gradients of step `done` of the data, reduced to their owners.
    train::StepReport compute_gradients();
    /// Second half: the decision of all ranks, and the update.
    StepResult update(const train::StepReport& report);

    [[nodiscard]] index_t steps_done() const noexcept { return done_; }
    void set_steps_done(index_t steps) noexcept { done_ = steps; }

private:
    /// The loss of the routers' balance in the pass that `tape_` holds; its gradient is scaled for a step of `passes`.
    model::RouterBalance balance_of_pass(std::size_t passes);

    TrainerParts<T> parts_;
    model::Tape<T> tape_;
    ops::LossScratch<T> loss_scratch_;
    core::Matrix<float> grad_hidden_;     // [T, H]
    std::vector<index_t> expert_counts_;  // [MoE layers * E] of the step, all ranks
    double auxiliary_loss_ = 0;
    std::int64_t begin_ns_ = 0;
    index_t done_ = 0;
};

/// Collective. Loss and exact matches of a data set, in batches of `batch_size` sequences over all ranks.
template <class T>
[[nodiscard]] Evaluation evaluate(model::Decoder<T>& decoder, const kernels::KernelSet& kernels,
                                  const mpi::ProcessGrid& grid, const Dataset& data, index_t batch_size);

/// Collective. Log-probabilities of the targets of one sequence, on all ranks.
template <class T>
[[nodiscard]] std::vector<double> target_log_probabilities(model::Decoder<T>& decoder,
                                                           const kernels::KernelSet& kernels,
                                                           const mpi::ProcessGrid& grid, const Dataset& data,
                                                           index_t sequence);

}  // namespace moesaic::train
