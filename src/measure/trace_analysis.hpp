// Where the time of training steps went, from the trace of all ranks.
#pragma once

#include "measure/critical_path.hpp"

#include <map>
#include <string>
#include <vector>

namespace moesaic::measure {

/// One rank, over the steps that all ranks recorded. Seconds.
struct RankSteps {
    PhaseSeconds phases;
    double total = 0;
    double median = 0;      ///< of a step
    double waiting = 0;     ///< in collectives, until the last rank came
    double transfer = 0;    ///< in collectives, after that
    double alone = 0;       ///< in collectives that no other rank recorded: their waiting is unknown
    double overlapped = 0;  ///< of all MPI time: while another thread of the rank computed

    [[nodiscard]] double computing() const { return total - waiting - transfer; }
};

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
    std::vector<ThreadBalance> threads;  ///< of ranks with several threads
    CriticalPath critical_path;
    ExpertTokens experts;
    std::map<int, double> peak_memory_bytes;  ///< resident
    std::map<int, double> peak_bandwidth;     ///< bytes per second sent, over 100 ms
    /// The least time by which the first rank left a collective that no rank can leave before all have come, after the
    /// last one came; seconds. Below zero by what is left of the clocks' differences.
    double least_overlap = 0;
    int checked_collectives = 0;

    /// Percent by which the rank that computes longest exceeds the average.
    [[nodiscard]] double rank_imbalance_percent() const;
};

[[nodiscard]] TraceSummary analyse(const Trace& trace);

}  // namespace moesaic::measure
