// The clock of the trace: cycles of the processor's time stamp counter, calibrated against the monotonic clock.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moesaic::core {

/// Nanoseconds of the monotonic clock of this host.
[[nodiscard]] inline std::int64_t monotonic_ns() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/// True where the time stamp counter runs at a constant rate in all power states and on all cores ("invariant TSC",
/// Intel SDM volume 3, 18.17.1).
extern const bool has_invariant_tsc;

/// Cycles of the time stamp counter where it is invariant, else nanoseconds.
[[nodiscard]] inline std::int64_t ticks() noexcept {
#if defined(__x86_64__)
    if (has_invariant_tsc) {
        return static_cast<std::int64_t>(__builtin_ia32_rdtsc());
    }
#endif
    return monotonic_ns();
}

/// Converts ticks to nanoseconds of the monotonic clock, linearly between moments at which both clocks were read. It
/// therefore follows all that the system does to the monotonic clock.
class TickScale {
public:
    /// Reads both clocks.
    void calibrate();
    /// Nanoseconds of the monotonic clock; needs two calibrations. Moments before the last one stay where they are
    /// for the next 2048; later moments are extrapolated, which may undo their order.
    [[nodiscard]] std::int64_t to_ns(std::int64_t ticks) const;
    /// Between the first and the last calibration.
    [[nodiscard]] double ticks_per_second() const;

private:
    struct Reading {
        std::int64_t ticks;
        std::int64_t ns;
    };
    static constexpr std::size_t most_readings = 4096;  // bounds the memory of long runs

    std::vector<Reading> readings_;
};

}  // namespace moesaic::core
