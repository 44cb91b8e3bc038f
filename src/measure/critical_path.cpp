#include "measure/critical_path.hpp"

#include <limits>

namespace moesaic::measure {
namespace {

class Path {
public:
    Path(const Trace& trace, const std::map<int, Timeline>& timelines, const std::map<std::uint64_t, Arrival>& arrivals)
        : trace_(trace), timelines_(timelines), arrivals_(arrivals) {}

    void follow(std::size_t step) {
        double first = std::numeric_limits<double>::infinity();
        double now = -first;
        int rank = 0;
        for (const auto& [candidate, timeline] : timelines_) {
            first = std::min(first, timeline.steps[step].begin);
            if (timeline.steps[step].end > now) {
                now = timeline.steps[step].end;
                rank = candidate;
            }
        }
        path_.total += seconds_per_us * (now - first);
        while (now > first) {
            const std::span<const Call> before = that_begin_in(timelines_.at(rank).calls, first, now);
            if (before.empty()) {
                add(rank, first, now);
                return;
            }
            const Call& call = before.back();
            add(rank, call.end, now);
            const Arrival& arrival = arrivals_.at(call.call);
            const bool waited =
                arrival.last_rank != rank && arrival.last_begin > call.begin && arrival.last_begin < now;
            const double from = waited ? std::min(arrival.last_begin, call.end) : call.begin;
            path_.phases[collectives_phase] += seconds_per_us * (call.end - from);
            path_.changes += waited ? 1 : 0;
            rank = waited ? arrival.last_rank : rank;
            now = from;
        }
    }

    [[nodiscard]] const CriticalPath& path() const { return path_; }

private:
    void add(int rank, double begin, double end) {
        path_.by_rank[rank] += add_phases(trace_, timelines_.at(rank), begin, end, path_.phases);
    }

    const Trace& trace_;
    const std::map<int, Timeline>& timelines_;
    const std::map<std::uint64_t, Arrival>& arrivals_;
    CriticalPath path_;
};

}  // namespace

CriticalPath find_critical_path(const Trace& trace, const std::map<int, Timeline>& timelines,
                                const std::map<std::uint64_t, Arrival>& arrivals) {
    Path path(trace, timelines, arrivals);
    const std::size_t steps = timelines.empty() ? 0 : timelines.begin()->second.steps.size();
    for (std::size_t step = 0; step < steps; ++step) {
        path.follow(step);
    }
    return path.path();
}

}  // namespace moesaic::measure
