// Where the time of training steps went, from the trace of all ranks.
#pragma once

#include "measure/critical_path.hpp"
#include "measure/rank_steps.hpp"

#include <map>
#include <string>
#include <vector>

namespace moesaic::measure {

/// How evenly the threads of a rank shared the work under one scope.
struct ThreadBalance {
    int rank = 0;
    std::string scope;
    int threads = 0;
    double mean = 0;     ///< seconds of a thread
    double longest = 0;  ///< seconds of the thread that worked for longest, region by region

    [[nodiscard]] double imbalance_percent() const { return mean > 0 ? 100 * (longest / mean - 1) : 0; }
};

/// Tokens of all steps, by layer and expert.
struct ExpertTokens {
    std::vector<std::string> layers;
    std::vector<std::vector<double>> tokens;  ///< [layers][E]
};

struct TraceSummary {
    int steps = 0;                              ///< that all ranks recorded; the following is about these
    double begin = 0;                           ///< of the first of them, in seconds of the trace
    double end = 0;                             ///< of the last one
    std::map<int, std::size_t> steps_of_ranks;  ///< that each of `ranks` recorded
    std::map<int, RankSteps> ranks;
    double rank_imbalance_percent = 0;   ///< of the ranks
    std::vector<ThreadBalance> threads;  ///< of ranks with several threads
    CriticalPath critical_path;
    ExpertTokens experts;
    std::map<int, double> peak_memory_bytes;  ///< resident
    std::map<int, double> peak_bandwidth;     ///< bytes per second sent, over 100 ms
    /// The least time by which the first rank left a collective that no rank can leave before all have come, after the
    /// last one came; seconds. Below zero by what is left of the clocks' differences.
    double least_overlap = 0;
    int checked_collectives = 0;
};

[[nodiscard]] TraceSummary analyse(const Trace& trace);

}  // namespace moesaic::measure
