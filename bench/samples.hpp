// What was measured, repetition by repetition, by all ranks.
#pragma once

#include "measure/statistics.hpp"

#include <vector>

namespace moesaic::bench {

/// One measurement: of the slowest rank, which counts, and of this one.
struct Sample {
    double slowest = 0;
    double mine = 0;

    [[nodiscard]] Sample operator+(const Sample& other) const { return {slowest + other.slowest, mine + other.mine}; }
    [[nodiscard]] Sample operator*(double factor) const { return {slowest * factor, mine * factor}; }
    /// What work of this size comes to per unit of this time.
    [[nodiscard]] Sample rate_of(double work) const { return {work / slowest, work / mine}; }
};

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
