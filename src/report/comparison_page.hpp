// Several training runs beside each other.
#pragma once

#include "report/run_page.hpp"

#include <string>
#include <vector>

namespace moesaic::report {

/// The losses of all runs in one chart, the options in which they differ, and the figures that they ended with. Two
/// runs or more.
[[nodiscard]] Document compare_runs(const std::vector<RunRecord>& runs);

}  // namespace moesaic::report
