// Rank 0 coordinates each optimizer step: it hears every rank's summary and decides once for all.
#pragma once

#include "core/options.hpp"
#include "mpi/communicator.hpp"

#include <cstdint>

namespace moesaic::train {

/// What one rank knows at the end of the backward pass, about its own tokens and the gradients that it owns.
struct StepSummary {
    double loss_sum = 0;      ///< of negative log-probabilities
    double squared_norm = 0;  ///< of owned gradients
    std::int64_t tokens = 0;
    std::int64_t target_tokens = 0;
    bool finite = true;           ///< loss and owned gradients
    bool stop_requested = false;  ///< a signal arrived
    double busy_seconds = 0;      ///< of this step, without waiting for other ranks
};

/// What all ranks do next.
struct Decision {
    bool apply = false;       ///< update the parameters; otherwise skip this step
    bool checkpoint = false;  ///< save after the update
    bool stop = false;        ///< end the run after this step, on request
    double clip_scale = 1;    ///< factor on the gradients
    double gradient_norm = 0;
    double loss = 0;  ///< per target token of all ranks; NaN without one
    std::int64_t tokens = 0;
    std::int64_t target_tokens = 0;
    std::int32_t slowest_rank = 0;  ///< the one that was busy for longest
    double slowness = 1;            ///< its busy time over the median of the other ranks'
};

struct CoordinatorSettings {
    double max_gradient_norm = 1;       ///< 0: no clipping
    std::int64_t checkpoint_every = 0;  ///< steps; 0: only by time and on a stop
    double checkpoint_minutes = 15;     ///< 0: not by time
    core::Duration wall_time{};         ///< the run must end within, from the coordinator's construction

    void declare_clipping(core::OptionSet& set);
    void declare_checkpoints(core::OptionSet& set);
    void declare_times(core::OptionSet& set);
};

/// Collective object: all ranks of `world` hold one and call it in the same order.
class GradientCoordinator {
public:
    GradientCoordinator(const mpi::Communicator& world, const CoordinatorSettings& settings);

    /// Collective. `step` is the number of the step being decided, from 1.
    [[nodiscard]] Decision decide(const StepSummary& summary, std::int64_t step);

private:
    [[nodiscard]] bool out_of_time();
    [[nodiscard]] bool is_checkpoint_due(std::int64_t step);

    mpi::Communicator world_;
    CoordinatorSettings settings_;
    std::int64_t start_ns_;
    std::int64_t previous_ns_;
    std::int64_t longest_step_ns_ = 0;
    std::int64_t checkpoint_ns_;  ///< of the last decision for one
};

}  // namespace moesaic::train
