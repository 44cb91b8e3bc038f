// The report of a benchmark's result file.
#pragma once

#include "measure/results.hpp"
#include "report/document.hpp"

namespace moesaic::report {

/// Headline, roofline, scaling, layers, collectives, steps, all figures with n and interval, and the environment.
[[nodiscard]] Document describe_results(const measure::Results& results);

}  // namespace moesaic::report
