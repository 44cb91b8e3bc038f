// Where the time of a training step goes: on each rank, between computing, transfers and waiting for others.
#pragma once

#include "core/trace.hpp"
#include "mpi/communicator.hpp"

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::measure {

/// A collective on one rank.
struct CollectiveTime {
    std::uint64_t call = 0;  ///< the same on all ranks that take part
    double seconds = 0;
};

/// One rank's step, taken from its trace. Seconds.
struct StepTrace {
    double total = 0;
    std::vector<CollectiveTime> collectives;  ///< of several ranks, in order; of nested ones the outermost
    std::map<std::string, double> of_scope;   ///< sums by name, nested scopes in those around them too
    double exchange = 0;                      ///< of rows with other ranks
    double hidden = 0;                        ///< that part of it in which the experts' worker computed

    /// Of all scopes of this name. Throws with ExitCode::runtime_failure if the step has none: a scope that was renamed
    /// or is no longer recorded must not look like one that takes no time.
    [[nodiscard]] double seconds_of(const core::trace::ScopeName& scope) const;
};

/// Records scopes from its construction on. Takes them from the buffers of threads all the while, so that a step may
/// have any number of them.
class EventCollector {
public:
    EventCollector();
    ~EventCollector();
    EventCollector(const EventCollector&) = delete;
    EventCollector& operator=(const EventCollector&) = delete;

    /// Ends recording; all that was recorded.
    [[nodiscard]] std::vector<core::trace::Event> stop();

private:
    void take();

    std::vector<core::trace::Event> events_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;
    std::thread thread_;
};

/// The trace of the one scope "step" in `events`, of all that lies in it, and of the experts' worker meanwhile.
[[nodiscard]] StepTrace trace_of_step(std::span<const core::trace::Event> events);

/// How one rank spent a step. A collective ends when its data have come; what it takes longer on this rank than on that
/// of its ranks where it was shortest, it waited for others to arrive.
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

}  // namespace moesaic::measure
