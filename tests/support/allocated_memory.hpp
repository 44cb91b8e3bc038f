// Bytes that this process has allocated: for tests that compare them with a plan. A suite that uses it has
// allocated_memory.cpp among its sources, and links with `-Wl,--wrap=aligned_alloc,--wrap=free`.
#pragma once

#include <cstddef>

namespace moesaic::test {

/// Bytes of matrices, buffers and standard containers that are there now.
[[nodiscard]] std::size_t allocated_bytes();
/// The most that was there at a time since the last call of `reset_peak_bytes`.
[[nodiscard]] std::size_t peak_bytes();
void reset_peak_bytes();

}  // namespace moesaic::test
