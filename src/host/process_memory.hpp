// The memory that this process uses.
#pragma once

#include <cstdint>

namespace moesaic::host {

/// Bytes of resident memory now; 0 if the system does not tell.
[[nodiscard]] std::uint64_t resident_memory_bytes();
/// The same, but of pages that n processes have 1/n: those of shared memory are there once (Linux: the proportional set
/// size, in /proc/self/smaps_rollup; where that is missing, all resident memory).
[[nodiscard]] std::uint64_t proportional_memory_bytes();
/// Forgets earlier peaks where the system allows it (Linux: /proc/self/clear_refs).
void reset_peak_memory();
/// Bytes of resident memory at the peak since the start or the last reset, without what other processes account for now
/// as in proportional_memory_bytes; 0 if the system does not tell.
[[nodiscard]] std::uint64_t peak_memory_bytes();

/// From now on, memory of 512 KiB and more goes back to the system as soon as it is freed, and what is free goes now.
/// The allocator would keep it in a heap for the next request, where what is smaller soon cuts it into pieces that
/// nothing large fits into: a process that frees as much as it takes then grows all the same.
void return_freed_memory();

/// Memory that the phases of a piece of work add, as peak_memory_bytes counts it, whatever others allocate between
/// them. Resets the peak.
class MemoryOfPhases {
public:
    /// The first phase begins.
    MemoryOfPhases() { begin(); }
    void begin();
    void end();
    /// Bytes of all ended phases together at their peak.
    [[nodiscard]] double peak_bytes() const noexcept { return peak_; }

private:
    double before_ = 0;  ///< when the phase began
    double kept_ = 0;    ///< by the phases that ended
    double peak_ = 0;
};

}  // namespace moesaic::host
