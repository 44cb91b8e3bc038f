// The most memory that this process has used.
#pragma once

#include <cstdint>

namespace moesaic::host {

/// Forgets earlier peaks where the system allows it (Linux: /proc/self/clear_refs).
void reset_peak_memory();
/// Bytes of resident memory at the peak since the start or the last reset; 0 if the system does not tell.
[[nodiscard]] std::uint64_t peak_memory_bytes();

}  // namespace moesaic::host
