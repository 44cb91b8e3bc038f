// Traces that moesaic wrote, read back.
#pragma once

#include "measure/trace.hpp"

#include <filesystem>
#include <vector>

namespace moesaic::measure {

/// Reads a trace of all ranks, or the traces of single ranks that an ended run left: their clocks are aligned as well
/// as at its start. One event per line, as moesaic writes them; a file that ends in the middle is read as far as it
/// goes. Other damage throws with ExitCode::corrupt_input.
[[nodiscard]] Trace read_trace(const std::vector<std::filesystem::path>& files);

}  // namespace moesaic::measure
