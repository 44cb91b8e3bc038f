// Statistics of repeated measurements.
#pragma once

#include "core/matrix.hpp"

#include <vector>

namespace moesaic::measure {

using core::index_t;

/// What repetitions of one measurement gave. [low, high] holds the median of the population with a probability of 95 %
/// or more, whatever the distribution: it is bounded by order statistics of the samples (see any text on nonparametric
/// statistics, for example Conover 1999, section 3.2). Fewer than six samples can't tell so much; then it is [min,
/// max], and has_interval() is false.
struct Summary {
    static constexpr index_t least_of_interval = 6;

    index_t n = 0;
    double min = 0;
    double median = 0;
    double max = 0;
    double low = 0;
    double high = 0;

    [[nodiscard]] bool has_interval() const { return n >= least_of_interval; }
    /// Half the interval's width in percent of the median.
    [[nodiscard]] double spread_percent() const { return median == 0 ? 0 : 50 * (high - low) / median; }
};

/// `samples` must not be empty.
[[nodiscard]] Summary summarize(std::vector<double> samples);

/// The median of the best quarter: what the machine can do, where disturbances only lower samples, but not what one
/// odd clock reading says.
[[nodiscard]] double best_of(std::vector<double> rates);

/// numerator / x for every sample x: rates from times.
[[nodiscard]] std::vector<double> rates(double numerator, const std::vector<double>& times);
/// factor * x for every sample x: another unit.
[[nodiscard]] std::vector<double> scaled(double factor, const std::vector<double>& samples);

}  // namespace moesaic::measure
