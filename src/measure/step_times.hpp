// The ranks of one step compared while they run, each on its own clock.
#pragma once

#include "measure/rank_steps.hpp"
#include "mpi/communicator.hpp"

#include <span>
#include <vector>

namespace moesaic::measure {

/// One rank's step, taken from what it recorded.
struct StepTrace {
    RankSteps rank;           ///< without waiting and transfer, which share_out() tells
    std::vector<Call> calls;  ///< collectives of the step
};

/// The one step in `events`. Throws with ExitCode::runtime_failure if there is none.
[[nodiscard]] StepTrace trace_of_step(std::span<const core::trace::Event> events);

/// Collective. Total, exchange, hidden, transfer and waiting of every rank, in their order, on rank 0; elsewhere empty.
[[nodiscard]] std::vector<RankSteps> share_out(const mpi::Communicator& world, const StepTrace& mine);

}  // namespace moesaic::measure
