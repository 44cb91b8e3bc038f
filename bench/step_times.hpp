// Where the time of a training step goes: on each rank, between computing, transfers and waiting for others.
#pragma once

#include "core/trace.hpp"
#include "mpi/communicator.hpp"

#include <map>
#include <span>
#include <string>
#include <vector>

namespace moesaic::bench {

/// One rank's step, taken from its trace. Seconds.
struct StepTrace {
    double total = 0;
    std::vector<double> collectives;         ///< in order; the same number on all ranks
    std::map<std::string, double> of_scope;  ///< sums by name, nested scopes in those around them too
    double exchange = 0;                     ///< of rows with other ranks
    double hidden = 0;                       ///< that part of it in which the experts' worker computed
};

/// The trace of the one scope "step" in `events`, of all that lies in it, and of the experts' worker meanwhile.
[[nodiscard]] StepTrace trace_of_step(std::span<const core::trace::Event> events);

/// How one rank spent a step. A collective ends when its data have come; what it takes longer on this rank than on the
/// one where it was shortest, it waited for others to arrive.
struct StepShares {
    double total = 0;     ///< seconds
    double transfer = 0;  ///< seconds of collectives without waiting
    double waiting = 0;   ///< seconds
    double exchange = 0;  ///< as in StepTrace
    double hidden = 0;

    /// Seconds outside of collectives.
    [[nodiscard]] double computing() const { return total - transfer - waiting; }
};

/// Collective. One entry per rank, on rank 0; elsewhere empty.
[[nodiscard]] std::vector<StepShares> share_out(const mpi::Communicator& world, const StepTrace& mine);

/// How much longer than the average the rank computes that computes longest, in percent of the average.
[[nodiscard]] double imbalance_percent(std::span<const StepShares> ranks);

}  // namespace moesaic::bench
