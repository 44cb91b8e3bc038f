// The report of a training run, from what it left in its output folder.
#pragma once

#include "report/document.hpp"

#include <filesystem>

namespace moesaic::report {

/// Reads run.json, metrics.jsonl, the names of checkpoints, and the trace: trace.json, or those of single ranks that a
/// run leaves which did not come to its end. A folder without run.json throws with ExitCode::usage; damaged files with
/// ExitCode::corrupt_input.
[[nodiscard]] Document describe_run(const std::filesystem::path& folder);

}  // namespace moesaic::report
