// A trace as data, whether it comes from this process or from files.
#pragma once

#include "core/trace.hpp"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace moesaic::measure {

/// What one thread did for some time. Microseconds, on the clock of rank 0 if the trace is that of a run.
struct TraceInterval {
    double begin = 0;
    double end = 0;
    int name = 0;      ///< index into Trace::names
    int category = 0;  ///< the same
    int thread = 0;
    std::int64_t bytes = 0;
    std::uint64_t call = 0;  ///< of a collective: the same on all its ranks; or 0

    [[nodiscard]] double duration() const { return end - begin; }
};

struct TraceCounter {
    int rank = 0;
    int name = 0;
    double at = 0;
    std::vector<double> values;
};

/// How the clock of a rank was compared with that of rank 0.
struct RankClock {
    double rank = 0;
    std::string kind;
    double offset_us = 0;  ///< at the start
    double offset_at_end_us = 0;
    double drift_ppm = 0;
    double error_us = 0;  ///< at most, of what remains
};

/// A run may be stopped and resumed.
struct TraceSession {
    double begin = 0;               ///< microseconds of the trace
    std::vector<RankClock> clocks;  ///< none if it did not come to its end
};

struct Trace {
    std::vector<std::string> names;
    std::map<std::string, int> numbers;  ///< of the names
    std::map<int, std::vector<TraceInterval>> ranks;
    std::vector<TraceCounter> counters;
    std::vector<TraceSession> sessions;
    std::int64_t dropped = 0;
    bool is_complete = true;  ///< false: the file ends in the middle

    /// -1 if no event has the name.
    [[nodiscard]] int index_of(const std::string& name) const;
    /// The same, after adding the name if it is new.
    int add_name(const std::string& name);
    /// Adds events that this process recorded, on its own clock.
    void add(int rank, std::span<const core::trace::Event> events);
};

}  // namespace moesaic::measure
