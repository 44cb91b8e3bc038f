// What was measured, repetition by repetition, by all ranks.
#pragma once

#include "measure/statistics.hpp"
#include "mpi/timing.hpp"

#include <vector>

namespace moesaic::bench {

using mpi::Sample;

/// All repetitions, in order.
struct Samples {
    std::vector<double> slowest;
    std::vector<double> mine;

    void push_back(const Sample& sample) {
        slowest.push_back(sample.slowest);
        mine.push_back(sample.mine);
    }
    [[nodiscard]] Samples scaled(double factor) const {
        return {measure::scaled(factor, slowest), measure::scaled(factor, mine)};
    }
    [[nodiscard]] Samples rates(double work) const {
        return {measure::rates(work, slowest), measure::rates(work, mine)};
    }
};

}  // namespace moesaic::bench
