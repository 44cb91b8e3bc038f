// The memory that this process uses.
#pragma once

#include <cstdint>

namespace moesaic::host {

/// Bytes of resident memory now; 0 if the system does not tell.
[[nodiscard]] std::uint64_t resident_memory_bytes();
/// Forgets earlier peaks where the system allows it (Linux: /proc/self/clear_refs).
void reset_peak_memory();
/// Bytes of resident memory at the peak since the start or the last reset; 0 if the system does not tell.
[[nodiscard]] std::uint64_t peak_memory_bytes();

}  // namespace moesaic::host
