// What a trace says about a run, as sections of a report.
#pragma once

#include "report/document.hpp"
#include "report/trace_analysis.hpp"

#include <vector>

namespace moesaic::report {

/// Time by phase and rank, waiting, critical path, threads, clocks; and the load of the experts.
[[nodiscard]] std::vector<Section> sections_of(const Trace& trace, const TraceSummary& summary);

}  // namespace moesaic::report
