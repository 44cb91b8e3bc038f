// How long training steps will take that nobody has run, from what a machine can do.
#pragma once

#include "host/placement.hpp"
#include "measure/results.hpp"
#include "measure/work.hpp"
#include "model/families/architecture.hpp"
#include "mpi/communicator.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_workspace.hpp"

#include <string>

namespace moesaic::bench {

using core::index_t;

/// What a machine can do at best, and what part of it steps reach.
struct StepSpeed {
    measure::MachineLimits limits;  ///< of a rank with so many threads
    index_t threads = 1;
    double efficiency = 0;  ///< the floor of a step over its time
    std::string source;     ///< of the limits, "measured now"

    /// Limits of a rank that has other threads of the same machine: each with its share.
    [[nodiscard]] measure::MachineLimits limits_of(index_t other_threads) const;
};

/// Collective. Measures the limits while all ranks do, for some tenths of a second, with the threads of the placement,
/// and takes a usual efficiency.
[[nodiscard]] StepSpeed measure_speed(const mpi::Communicator& world, const host::Placement& placement);

/// The limits of a result of benchmarks, and the efficiency of its training step if it has one, otherwise a usual one.
/// Throws a usage error if no case has limits of the machine. `file` is its name in messages.
[[nodiscard]] StepSpeed speed_of(const measure::Results& results, const std::string& file);

/// Steps to come.
struct StepsToCome {
    mpi::GridShape grid;
    index_t threads = 1;  ///< of a rank
    ops::Activations activations = ops::Activations::retain;
    index_t passes = 1;          ///< of a step
    double tokens_of_pass = 0;   ///< of all ranks
    double sequence_length = 1;  ///< of each
};

/// Seconds of a step: the floors of experts, other projections and head, forward and backward, for every pass, and of
/// the scores of attention; of what is computed again once more; over the efficiency. Without messages between
/// ranks.
[[nodiscard]] double step_seconds(const model::Architecture& architecture, const StepsToCome& steps,
                                  const StepSpeed& speed);

}  // namespace moesaic::bench
