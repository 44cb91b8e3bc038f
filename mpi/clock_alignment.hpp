// The clocks of all ranks against that of rank 0.
#pragma once

#include "core/trace.hpp"
#include "mpi/communicator.hpp"

#include <cstdint>
#include <functional>

namespace moesaic::mpi {

/// What to add to this rank's clock to get that of rank 0.
struct ClockReading {
    std::int64_t at_ns = 0;  ///< on this rank's clock
    double offset_ns = 0;
    double error_ns = 0;  ///< the offset is right within this: half of the shortest round trip
};

/// A clock in nanoseconds.
using Clock = std::function<std::int64_t()>;

/// Collective. Asks rank 0 for the time in many round trips and uses the shortest, in the middle of which rank 0 is
/// taken to have answered (Cristian 1989, "Probabilistic clock synchronization").
[[nodiscard]] ClockReading read_clock_of_root(const Communicator& world, const Clock& clock = core::trace::now_ns);

/// The offset between two readings, which changes linearly; before and after them it is continued.
class ClockLine {
public:
    ClockLine(const ClockReading& first, const ClockReading& last) : first_(first), last_(last) {}

    /// To add to a time of this rank's clock, in nanoseconds.
    [[nodiscard]] double offset_ns(double at_ns) const;
    /// Parts per million by which the clock of rank 0 is faster.
    [[nodiscard]] double drift_ppm() const;
    /// Bound of the error at both ends and between them.
    [[nodiscard]] double error_ns() const;

private:
    ClockReading first_;
    ClockReading last_;
};

}  // namespace moesaic::mpi
