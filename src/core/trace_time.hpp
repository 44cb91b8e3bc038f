// Times in a trace file, which survive the arithmetic of its readers.
#pragma once

#include <cstdint>
#include <string>

namespace moesaic::core::trace {

/// A moment or a duration in a trace file: microseconds, in units of 2^-11 (0.49 ns).
///
/// Readers parse "ts" and "dur" into doubles and add them. Of decimals, one sum in some thousand comes out an ulp
/// beside that of another scope which ends at the same moment, so that a scope seems to outlive the one around it. In
/// binary fractions everything is exact: both numbers and their sum, up to 2^53 units, which are 50 days. Units are
/// fine enough for a moment and a duration to be the nearest to whole nanoseconds, which is what Perfetto rounds them
/// to.
class TraceTime {
public:
    [[nodiscard]] static TraceTime of_ns(std::int64_t ns);

    [[nodiscard]] TraceTime operator-(TraceTime other) const { return TraceTime(units_ - other.units_); }
    /// Appends all decimals.
    void append_to(std::string& out) const;

private:
    explicit TraceTime(std::int64_t units) : units_(units) {}

    std::int64_t units_;
};

}  // namespace moesaic::core::trace
