// What steps took, repetition by repetition.
#pragma once

#include "bench/console.hpp"
#include "measure/step_times.hpp"

#include <functional>
#include <vector>

namespace moesaic::bench {

/// All repetitions of a step; what is known of other ranks is there on rank 0 only.
struct StepSamples {
    Samples seconds;
    std::vector<measure::RankSteps> mine;                 ///< this rank by itself
    std::vector<std::vector<measure::RankSteps>> shares;  ///< of all ranks

    [[nodiscard]] std::vector<double> of_each(const std::function<double(std::size_t)>& value) const;
    /// Computing, transfers, waiting and the exchange of rows: a line per rank, and figures of the averages.
    void report_ranks(Console& console) const;
};

}  // namespace moesaic::bench
