// Traces that moesaic wrote, read back.
#pragma once

#include "measure/trace.hpp"

#include <filesystem>

namespace moesaic::measure {

/// The trace of a run: `joined` with the sessions that came to their ends, and the files in the folder `parts` that the
/// ranks of one write which still lasts, or was killed; their clocks are aligned as well as at its start. Either may be
/// missing. One event per line, as moesaic writes them; a file that ends in the middle is read as far as it goes. Other
/// damage throws with ExitCode::corrupt_input.
[[nodiscard]] Trace read_trace(const std::filesystem::path& joined, const std::filesystem::path& parts = {});

}  // namespace moesaic::measure
