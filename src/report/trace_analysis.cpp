#include "report/trace_analysis.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <string_view>

namespace moesaic::report {
namespace {

constexpr double seconds_per_us = 1e-6;

/// A part of a thread's time that belongs to one scope, the innermost.
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

double overlap(double begin, double end, double from, double to) {
    return std::max(0.0, std::min(end, to) - std::max(begin, from));
}

/// One rank, by time.
struct Timeline {
    std::vector<TraceInterval> steps;
    std::vector<Segment> segments;      ///< of the thread that makes the steps, without gaps inside of scopes
    std::vector<Call> calls;            ///< collectives of that thread; of nested ones the outermost
    std::vector<Segment> others;        ///< when any other thread works; disjoint
    std::vector<TraceInterval> shares;  ///< of threads in the work of teams, in order of begin
};

bool begins_earlier(const TraceInterval& a, const TraceInterval& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
}

/// Cuts nested intervals, sorted by begin, into segments.
std::vector<Segment> flatten(std::span<const TraceInterval> intervals) {
    std::vector<Segment> segments;
    std::vector<const TraceInterval*> open;
    double reached = 0;
    const auto advance = [&](double to) {
        if (!open.empty() && to > reached) {
            segments.push_back({reached, to, open.back()->name, open.back()->category});
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

class Analysis {
public:
    explicit Analysis(const Trace& trace)
        : trace_(trace), mpi_(trace.index_of("mpi")), thread_(trace.index_of("thread")), step_(trace.index_of("step")) {
        for (const auto& [rank, intervals] : trace.ranks) {
            lay_out(rank, intervals);
        }
    }

    TraceSummary summary() {
        find_arrivals();
        for (auto& [rank, timeline] : timelines_) {
            summary_.steps = std::max(summary_.steps, static_cast<int>(timeline.steps.size()));
            summary_.ranks[rank] = sum_up(timeline);
            balance_threads(rank, timeline);
        }
        for (int step = 0; step < summary_.steps; ++step) {
            follow_critical_path(static_cast<std::size_t>(step));
        }
        check_clocks();
        read_counters();
        return summary_;
    }

private:
    void lay_out(int rank, std::vector<TraceInterval> intervals) {
        std::sort(intervals.begin(), intervals.end(), begins_earlier);
        Timeline& timeline = timelines_[rank];
        std::copy_if(intervals.begin(), intervals.end(), std::back_inserter(timeline.steps),
                     [&](const auto& interval) { return interval.name == step_ && interval.category == step_; });
        if (timeline.steps.empty()) {
            return;
        }
        const int main_thread = timeline.steps.front().thread;
        std::vector<TraceInterval> nested;
        for (const TraceInterval& interval : intervals) {
            if (interval.category == thread_) {
                timeline.shares.push_back(interval);
            } else if (interval.thread == main_thread) {
                nested.push_back(interval);
            }
            if (interval.thread != main_thread && interval.category != mpi_) {
                add_to_union(timeline.others, interval);
            }
        }
        timeline.segments = flatten(nested);
        double reached = 0;
        for (const TraceInterval& interval : nested) {
            if (interval.call != 0 && interval.begin >= reached) {
                timeline.calls.push_back({interval.begin, interval.end, interval.call, interval.name});
                reached = interval.end;
            }
        }
    }

    /// When and where the last rank came to each collective that several ranks recorded.
    struct Arrival {
        int ranks = 0;
        double last_begin = 0;
        double first_end = 0;
        int last_rank = 0;
    };
    void find_arrivals() {
        for (const auto& [rank, timeline] : timelines_) {
            for (const Call& call : timeline.calls) {
                Arrival& arrival = arrivals_[call.call];
                if (arrival.ranks++ == 0 || call.begin > arrival.last_begin) {
                    arrival.last_begin = call.begin;
                    arrival.last_rank = rank;
                }
                arrival.first_end = arrival.ranks == 1 ? call.end : std::min(arrival.first_end, call.end);
            }
        }
    }

    std::string phase_of(const Segment& segment) const {
        if (segment.category == mpi_) {
            return "collectives";
        }
        const std::string& name = trace_.names[static_cast<std::size_t>(segment.name)];
        return name.substr(0, name.find('.'));
    }

    /// Calls use(segment, seconds) for all segments in [begin, end).
    template <class Use>
    static void for_each_segment(const Timeline& timeline, double begin, double end, const Use& use) {
        auto segment = std::partition_point(timeline.segments.begin(), timeline.segments.end(),
                                            [&](const Segment& s) { return s.end <= begin; });
        for (; segment != timeline.segments.end() && segment->begin < end; ++segment) {
            use(*segment, seconds_per_us * overlap(segment->begin, segment->end, begin, end));
        }
    }

    [[nodiscard]] RankSteps sum_up(const Timeline& timeline) const {
        RankSteps rank;
        auto call = timeline.calls.begin();
        for (const TraceInterval& step : timeline.steps) {
            rank.total += seconds_per_us * step.duration();
            for_each_segment(timeline, step.begin, step.end, [&](const Segment& segment, double seconds) {
                rank.phases[phase_of(segment)] += seconds;
            });
            for (; call != timeline.calls.end() && call->begin < step.end; ++call) {
                if (call->begin >= step.begin) {
                    const double waiting =
                        overlap(call->begin, call->end, call->begin, arrivals_.at(call->call).last_begin);
                    rank.waiting += seconds_per_us * waiting;
                    rank.transfer += seconds_per_us * (call->end - call->begin - waiting);
                    rank.overlapped += seconds_per_us * busy_others(timeline, call->begin, call->end);
                }
            }
        }
        return rank;
    }

    /// Microseconds of [begin, end) in which another thread worked.
    static double busy_others(const Timeline& timeline, double begin, double end) {
        double busy = 0;
        auto other = std::partition_point(timeline.others.begin(), timeline.others.end(),
                                          [&](const Segment& segment) { return segment.end <= begin; });
        for (; other != timeline.others.end() && other->begin < end; ++other) {
            busy += overlap(other->begin, other->end, begin, end);
        }
        return busy;
    }

    void balance_threads(int rank, const Timeline& timeline) {
        std::map<int, ThreadBalance> of_scope;
        for (const TraceInterval& step : timeline.steps) {
            std::map<int, std::map<int, std::vector<double>>> shares;  // scope, thread: seconds of regions
            auto share = std::partition_point(timeline.shares.begin(), timeline.shares.end(),
                                              [&](const TraceInterval& s) { return s.begin < step.begin; });
            for (; share != timeline.shares.end() && share->begin < step.end; ++share) {
                shares[share->name][share->thread].push_back(seconds_per_us * share->duration());
            }
            for (const auto& [scope, threads] : shares) {
                if (threads.size() > 1) {
                    add_regions(threads, of_scope[scope]);
                }
            }
        }
        for (auto& [scope, balance] : of_scope) {
            balance.rank = rank;
            balance.scope = trace_.names[static_cast<std::size_t>(scope)];
            summary_.threads.push_back(balance);
        }
    }

    /// The k-th share of every thread in a scope belongs to the same region: a team works as a whole. threads: by
    /// number, seconds of their shares.
    static void add_regions(const std::map<int, std::vector<double>>& threads, ThreadBalance& balance) {
        balance.threads = std::max(balance.threads, static_cast<int>(threads.size()));
        std::size_t regions = threads.begin()->second.size();
        for (const auto& [thread, seconds] : threads) {
            regions = std::min(regions, seconds.size());
        }
        for (std::size_t k = 0; k < regions; ++k) {
            double longest = 0;
            for (const auto& [thread, seconds] : threads) {
                longest = std::max(longest, seconds[k]);
                balance.mean += seconds[k] / static_cast<double>(threads.size());
            }
            balance.longest += longest;
        }
    }

    void add_to_path(int rank, double begin, double end) {
        for_each_segment(timelines_.at(rank), begin, end, [&](const Segment& segment, double seconds) {
            summary_.critical_path.phases[phase_of(segment)] += seconds;
            summary_.critical_path.by_rank[rank] += seconds;
        });
    }

    void follow_critical_path(std::size_t step) {
        CriticalPath& path = summary_.critical_path;
        double first = std::numeric_limits<double>::infinity();
        double now = 0;
        int rank = 0;
        for (const auto& [candidate, timeline] : timelines_) {
            if (step < timeline.steps.size()) {
                first = std::min(first, timeline.steps[step].begin);
                if (timeline.steps[step].end > now) {
                    now = timeline.steps[step].end;
                    rank = candidate;
                }
            }
        }
        path.total += seconds_per_us * (now - first);
        while (now > first) {
            const Timeline& timeline = timelines_.at(rank);
            const auto after = std::partition_point(timeline.calls.begin(), timeline.calls.end(),
                                                    [&](const Call& call) { return call.begin < now; });
            const Call* call = after == timeline.calls.begin() ? nullptr : &*(after - 1);
            if (call == nullptr || call->begin < first) {
                add_to_path(rank, first, now);
                return;
            }
            add_to_path(rank, call->end, now);
            const Arrival& arrival = arrivals_.at(call->call);
            const bool waited =
                arrival.last_rank != rank && arrival.last_begin > call->begin && arrival.last_begin < now;
            const double from = waited ? std::min(arrival.last_begin, call->end) : call->begin;
            path.phases["collectives"] += seconds_per_us * (call->end - from);
            path.changes += waited ? 1 : 0;
            rank = waited ? arrival.last_rank : rank;
            now = from;
        }
    }

    /// These end on no rank before they have begun on all.
    void check_clocks() {
        const std::set<std::string> synchronizing = {"mpi.barrier", "mpi.sum", "mpi.max", "mpi.min", "mpi.all_gather"};
        std::map<std::uint64_t, int> expected;
        std::set<std::uint64_t> seen;
        for (const auto& [rank, timeline] : timelines_) {
            for (const Call& call : timeline.calls) {
                const Arrival& arrival = arrivals_.at(call.call);
                if (arrival.ranks > 1 && synchronizing.contains(trace_.names[static_cast<std::size_t>(call.name)]) &&
                    seen.insert(call.call).second) {
                    const double overlap_here = seconds_per_us * (arrival.first_end - arrival.last_begin);
                    const bool is_first = summary_.checked_collectives++ == 0;
                    summary_.least_overlap = is_first ? overlap_here : std::min(summary_.least_overlap, overlap_here);
                }
            }
        }
    }

    void read_counters() {
        constexpr std::string_view of_experts = "tokens per expert, ";
        std::map<int, std::size_t> layers;
        for (const TraceCounter& counter : trace_.counters) {
            const std::string& name = trace_.names[static_cast<std::size_t>(counter.name)];
            const double value = counter.values.empty() ? 0 : counter.values.front();
            if (name == "resident memory") {
                double& peak = summary_.peak_memory_bytes[counter.rank];
                peak = std::max(peak, value);
            } else if (name == "MPI bandwidth") {
                double& peak = summary_.peak_bandwidth[counter.rank];
                peak = std::max(peak, value);
            } else if (name.starts_with(of_experts)) {
                ExpertTokens& experts = summary_.experts;
                const auto [place, is_new] = layers.try_emplace(counter.name, layers.size());
                if (is_new) {
                    experts.layers.push_back(name.substr(of_experts.size()));
                    experts.tokens.emplace_back(counter.values.size(), 0.0);
                }
                std::vector<double>& sums = experts.tokens[place->second];
                for (std::size_t e = 0; e < std::min(sums.size(), counter.values.size()); ++e) {
                    sums[e] += counter.values[e];
                }
            }
        }
    }

    const Trace& trace_;
    int mpi_;
    int thread_;
    int step_;
    std::map<int, Timeline> timelines_;
    std::map<std::uint64_t, Arrival> arrivals_;
    TraceSummary summary_;
};

}  // namespace

double TraceSummary::rank_imbalance_percent() const {
    double sum = 0;
    double longest = 0;
    for (const auto& [rank, of_rank] : ranks) {
        sum += of_rank.computing();
        longest = std::max(longest, of_rank.computing());
    }
    return sum > 0 ? 100 * (longest * static_cast<double>(ranks.size()) / sum - 1) : 0;
}

TraceSummary analyse(const Trace& trace) {
    return Analysis(trace).summary();
}

}  // namespace moesaic::report
