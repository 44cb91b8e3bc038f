#include "measure/timeline.hpp"

#include "core/scopes.hpp"

#include <iterator>
#include <limits>
#include <utility>

namespace moesaic::measure {
namespace {

namespace category = core::trace::category;

constexpr double before_all = -std::numeric_limits<double>::infinity();  // times may be negative

bool begins_earlier(const TraceInterval& a, const TraceInterval& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
}

/// Numbers in a trace of the names by which events are told apart.
struct Names {
    explicit Names(const Trace& trace)
        : mpi(trace.index_of(category::mpi)),
          thread(trace.index_of(category::thread)),
          step(trace.index_of(core::scopes::step.name)),
          recompute(trace.index_of(core::scopes::recompute.name)),
          experts_forward(trace.index_of(core::scopes::experts_forward.name)),
          experts_backward(trace.index_of(core::scopes::experts_backward.name)) {}

    int mpi;
    int thread;
    int step;
    int recompute;
    int experts_forward;
    int experts_backward;
};

/// Cuts nested intervals, sorted by begin, into segments.
std::vector<Segment> flatten(std::span<const TraceInterval> intervals, const Names& names) {
    std::vector<Segment> segments;
    std::vector<const TraceInterval*> open;
    double reached = before_all;
    const auto owner = [&] {
        const auto recompute =
            std::find_if(open.begin(), open.end(), [&](const auto* scope) { return scope->name == names.recompute; });
        return recompute != open.end() && open.back()->category != names.mpi ? *recompute : open.back();
    };
    const auto advance = [&](double to) {
        if (!open.empty() && to > reached) {
            segments.push_back({reached, to, owner()->name, owner()->category});
        }
        reached = std::max(reached, to);
    };
    for (const TraceInterval& next : intervals) {
        while (!open.empty() && open.back()->end <= next.begin) {
            advance(open.back()->end);
            open.pop_back();
        }
        advance(next.begin);
        open.push_back(&next);
    }
    while (!open.empty()) {
        advance(open.back()->end);
        open.pop_back();
    }
    return segments;
}

/// `next` begins no earlier than those before.
void add_to_union(std::vector<Segment>& united, const TraceInterval& next) {
    if (!united.empty() && next.begin <= united.back().end) {
        united.back().end = std::max(united.back().end, next.end);
    } else {
        united.push_back({next.begin, next.end, next.name, next.category});
    }
}

/// `intervals` of one rank.
Timeline lay_out(std::vector<TraceInterval> intervals, const Names& names) {
    std::sort(intervals.begin(), intervals.end(), begins_earlier);
    Timeline timeline;
    std::copy_if(intervals.begin(), intervals.end(), std::back_inserter(timeline.steps),
                 [&](const auto& interval) { return interval.name == names.step; });
    if (timeline.steps.empty()) {
        return timeline;
    }
    const int main_thread = timeline.steps.front().thread;
    for (const TraceInterval& interval : intervals) {
        if (interval.category == names.thread) {
            timeline.shares.push_back(interval);
        } else if (interval.thread == main_thread) {
            timeline.scopes.push_back(interval);
        } else if (interval.name == names.experts_forward || interval.name == names.experts_backward) {
            timeline.passes.push_back({interval.begin, interval.end, interval.name, interval.category});
        }
        if (interval.thread != main_thread && interval.category != names.mpi) {
            add_to_union(timeline.others, interval);
        }
    }
    timeline.segments = flatten(timeline.scopes, names);
    double reached = before_all;
    for (const TraceInterval& interval : timeline.scopes) {
        if (interval.call != 0 && interval.begin >= reached) {
            timeline.calls.push_back({interval.begin, interval.end, interval.call, interval.name});
            reached = interval.end;
        }
    }
    return timeline;
}

/// What tells which steps of two ranks are the same is a collective of all ranks in them: its call has the same number
/// everywhere.
void keep_common_steps(std::map<int, Timeline>& timelines) {
    if (timelines.size() < 2) {
        return;
    }
    const Timeline& first = timelines.begin()->second;
    std::map<std::uint64_t, std::size_t> step_of_call;  // of the first rank
    for (std::size_t step = 0; step < first.steps.size(); ++step) {
        for (const Call& call : that_begin_in(first.calls, first.steps[step].begin, first.steps[step].end)) {
            step_of_call[call.call] = step;
        }
    }
    std::map<std::size_t, std::vector<TraceInterval>> same;  // by step of the first rank: those of the ranks
    for (const auto& [rank, timeline] : timelines) {
        for (const TraceInterval& step : timeline.steps) {
            const std::span<const Call> calls = that_begin_in(timeline.calls, step.begin, step.end);
            const auto shared = std::find_if(calls.begin(), calls.end(),
                                             [&](const Call& call) { return step_of_call.contains(call.call); });
            if (shared != calls.end()) {
                same[step_of_call.at(shared->call)].push_back(step);
            }
        }
    }
    for (auto& [rank, timeline] : timelines) {
        timeline.steps.clear();
    }
    for (const auto& [number, steps] : same) {
        if (steps.size() == timelines.size()) {
            auto step = steps.begin();
            for (auto& [rank, timeline] : timelines) {
                timeline.steps.push_back(*step++);
            }
        }
    }
}

}  // namespace

std::map<int, Timeline> timelines_of(const Trace& trace) {
    const Names names(trace);
    std::map<int, Timeline> timelines;
    for (const auto& [rank, intervals] : trace.ranks) {
        Timeline timeline = lay_out(intervals, names);
        timeline.recorded_steps = timeline.steps.size();
        if (timeline.recorded_steps > 0) {
            timelines[rank] = std::move(timeline);
        }
    }
    keep_common_steps(timelines);
    return timelines;
}

std::map<std::uint64_t, Arrival> arrivals_of(const std::map<int, Timeline>& timelines) {
    std::map<std::uint64_t, Arrival> arrivals;
    for (const auto& [rank, timeline] : timelines) {
        for (const Call& call : timeline.calls) {
            Arrival& arrival = arrivals[call.call];
            if (arrival.ranks++ == 0 || call.begin > arrival.last_begin) {
                arrival.last_begin = call.begin;
                arrival.last_rank = rank;
            }
            const bool is_first = arrival.ranks == 1;
            arrival.first_end = is_first ? call.end : std::min(arrival.first_end, call.end);
            arrival.shortest = is_first ? call.end - call.begin : std::min(arrival.shortest, call.end - call.begin);
        }
    }
    return arrivals;
}

double add_phases(const Trace& trace, const Timeline& timeline, double begin, double end, PhaseSeconds& phases) {
    const int mpi = trace.index_of(category::mpi);
    double sum = 0;
    for_each_overlap(timeline.segments, begin, end, [&](const Segment& segment, double us) {
        const std::string& name = trace.names[static_cast<std::size_t>(segment.name)];
        phases[segment.category == mpi ? collectives_phase : std::string(core::trace::phase_of(name))] +=
            seconds_per_us * us;
        sum += seconds_per_us * us;
    });
    return sum;
}

}  // namespace moesaic::measure
