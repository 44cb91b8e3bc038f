// The figure of merit that stands for a whole suite: docs/benchmarking.md has its rules.
#pragma once

#include "measure/results.hpp"

#include <optional>
#include <vector>

namespace moesaic::measure {

/// Fewer have no interval of 95 %.
inline constexpr index_t least_repetitions_of_headline = Summary::least_of_interval;

/// The fastest measurement of the reference workload; nothing without one of enough repetitions.
[[nodiscard]] std::optional<Headline> headline_of(const std::vector<CaseResult>& cases);

}  // namespace moesaic::measure
