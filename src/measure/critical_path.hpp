// What decided how long the steps took.
#pragma once

#include "measure/timeline.hpp"

#include <map>

namespace moesaic::measure {

/// The chain of work and transfers that decided how long the steps took: from the end of a step back to its beginning,
/// and from each collective to the rank that came to it last. Seconds, of all steps together.
struct CriticalPath {
    double total = 0;
    PhaseSeconds phases;            ///< collectives: transfers on the path
    std::map<int, double> by_rank;  ///< computing on the path
    int changes = 0;                ///< from one rank to another
};

/// The k-th step is the same on all ranks.
[[nodiscard]] CriticalPath find_critical_path(const Trace& trace, const std::map<int, Timeline>& timelines,
                                              const std::map<std::uint64_t, Arrival>& arrivals);

}  // namespace moesaic::measure
