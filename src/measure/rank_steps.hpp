// Where the time of a rank's steps went: computing, transfers, waiting for others, scopes.
#pragma once

#include "measure/timeline.hpp"

#include <map>
#include <span>
#include <string>

namespace moesaic::measure {

/// One rank, over steps of its timeline. Seconds.
struct RankSteps {
    PhaseSeconds phases;
    std::map<std::string, double> scopes;  ///< by name, of the main thread and the experts' worker, nested ones
                                           ///< too, but for those in core::scopes::recompute
    double total = 0;
    double median = 0;      ///< of a step
    double waiting = 0;     ///< in collectives, for other ranks
    double transfer = 0;    ///< in collectives without that
    double alone = 0;       ///< in collectives that no other rank recorded: their waiting is unknown
    double overlapped = 0;  ///< in collectives, while another thread of the rank computed
    double exchange = 0;    ///< of rows with other ranks
    double hidden = 0;      ///< that part of it in which the experts' worker computed

    [[nodiscard]] double computing() const { return total - waiting - transfer; }
    /// Of all scopes of this name. Throws with ExitCode::runtime_failure if there is none: a scope that is no longer
    /// recorded must not look like one that takes no time.
    [[nodiscard]] double seconds_of(const core::trace::ScopeName& scope) const;
};

/// What one rank knows by itself: all but waiting, transfer and alone.
[[nodiscard]] RankSteps sum_up(const Trace& trace, const Timeline& timeline);

/// Whether times of different ranks can be compared, or durations only.
enum class Clocks : std::uint8_t { common, own };

/// Adds a rank's collectives `calls` to waiting, transfer and alone of `rank`. A collective ends when its data have
/// come. On a common clock, a rank waits in it until the last one comes. Where every rank has a clock of its own, what
/// the call takes longer on a rank than on the one where it is shortest counts as waiting: that one came last.
void split_calls(std::span<const Call> calls, const std::map<std::uint64_t, Arrival>& arrivals, Clocks clocks,
                 RankSteps& rank);

/// By how much the rank that computes longest exceeds the average, in percent. 0 for no ranks.
[[nodiscard]] double imbalance_percent(std::span<const RankSteps> ranks);

}  // namespace moesaic::measure
