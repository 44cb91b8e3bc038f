// What every rank did, by time: its steps, scopes and collectives.
#pragma once

#include "measure/trace.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace moesaic::measure {

inline constexpr double seconds_per_us = 1e-6;

/// Seconds by phase (core::trace::phase_of), with one for all of MPI. A moment belongs to the innermost scope that is
/// open then; but what a layer consists of that is computed again belongs to core::scopes::recompute.
using PhaseSeconds = std::map<std::string, double>;
inline const std::string collectives_phase = "collectives";

/// A part of a thread's time that belongs to one scope, the innermost. Times are those of the trace, in microseconds.
struct Segment {
    double begin = 0;
    double end = 0;
    int name = 0;
    int category = 0;
};

/// A collective call on one rank.
struct Call {
    double begin = 0;
    double end = 0;
    std::uint64_t call = 0;
    int name = 0;
};

/// One rank, by time.
struct Timeline {
    std::vector<TraceInterval> steps;   ///< that all ranks have
    std::size_t recorded_steps = 0;     ///< with those that another rank doesn't have
    std::vector<Segment> segments;      ///< of the thread that makes the steps, without gaps inside of scopes
    std::vector<TraceInterval> scopes;  ///< of that thread, in order of begin; nested
    std::vector<Call> calls;            ///< collectives of that thread; of nested ones the outermost
    std::vector<Segment> passes;        ///< of experts, on their worker's thread, one after the other
    std::vector<Segment> others;        ///< when any other thread works; disjoint
    std::vector<TraceInterval> shares;  ///< of threads in the work of teams, in order of begin
};

/// By rank; of ranks that recorded a step. Ranks may end at different steps or lack some in between: only those that
/// all have are kept, so that the k-th step is the same on all.
[[nodiscard]] std::map<int, Timeline> timelines_of(const Trace& trace);

/// When and where the last rank came to a collective.
struct Arrival {
    int ranks = 0;        ///< that recorded it
    double shortest = 0;  ///< microseconds of the call on the rank where it was shortest
    double last_begin = 0;
    double first_end = 0;
    int last_rank = 0;
};

/// By number of the call.
[[nodiscard]] std::map<std::uint64_t, Arrival> arrivals_of(const std::map<int, Timeline>& timelines);

/// The parts of `sorted`, which are disjoint or in order of begin, that begin in [begin, end).
template <class Scalar>
[[nodiscard]] std::span<const Scalar> that_begin_in(const std::vector<Scalar>& sorted, double begin, double end) {
    const auto from =
        std::partition_point(sorted.begin(), sorted.end(), [&](const Scalar& part) { return part.begin < begin; });
    const auto to = std::partition_point(from, sorted.end(), [&](const Scalar& part) { return part.begin < end; });
    return {from, to};
}

/// Microseconds of [begin, end) that one of `segments`, which are disjoint and sorted, covers: calls
/// use(segment, microseconds) for each of them.
template <class Use>
void for_each_overlap(const std::vector<Segment>& segments, double begin, double end, const Use& use) {
    auto segment =
        std::partition_point(segments.begin(), segments.end(), [&](const Segment& s) { return s.end <= begin; });
    for (; segment != segments.end() && segment->begin < end; ++segment) {
        use(*segment, std::min(segment->end, end) - std::max(segment->begin, begin));
    }
}

/// Adds the seconds of [begin, end) to their phases; returns those of all.
double add_phases(const Trace& trace, const Timeline& timeline, double begin, double end, PhaseSeconds& phases);

}  // namespace moesaic::measure
