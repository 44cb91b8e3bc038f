// What is printed after all cases of a benchmark: figures of merit, scaling, the headline.
#pragma once

#include "measure/results.hpp"

#include <string>
#include <vector>

namespace moesaic::bench {

/// Prints how results of one case change with ranks and threads, per figure of merit: the work of all ranks in a
/// second.
void print_scaling(const std::vector<measure::CaseResult>& cases);

/// Prints predicted times of grids beside measured ones, if there are several.
void print_grids(const std::vector<measure::CaseResult>& cases);

/// Lines about figures of a case that are better than the limits of the machine measured beside them allow.
[[nodiscard]] std::vector<std::string> beyond_limits(const measure::CaseResult& result);

/// Prints warnings, all `FOM` lines, and the headline last.
void print_figures(const measure::Results& results);

}  // namespace moesaic::bench
