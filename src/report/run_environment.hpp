// What surrounds the training of a run: memory, sessions, files, program, machine and options.
#pragma once

#include "measure/trace_analysis.hpp"
#include "report/run_page.hpp"

#include <optional>

namespace moesaic::report {

/// The plan that the run was started with, against what ranks used at most: as they say at their end, or as the trace
/// has it of a run that did not come to its end. May be empty.
[[nodiscard]] Section memory_section(const RunRecord& record, const measure::TraceSummary& trace);
/// A resumed run is made of sessions: one line for each, with what its object holds. Nothing for one session.
[[nodiscard]] std::optional<Section> sessions_section(const RunRecord& record);
[[nodiscard]] Section checkpoints_section(const RunRecord& record);
[[nodiscard]] Section environment_section(const RunRecord& record);

}  // namespace moesaic::report
