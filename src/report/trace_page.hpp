// What a trace says about a run, as sections of a report.
#pragma once

#include "measure/trace_analysis.hpp"
#include "report/document.hpp"

#include <vector>

namespace moesaic::report {

/// Time by phase and rank, waiting, critical path, threads, clocks; and the load of the experts.
[[nodiscard]] std::vector<Section> sections_of(const measure::Trace& trace, const measure::TraceSummary& summary);

}  // namespace moesaic::report
