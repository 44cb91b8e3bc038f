#include "measure/rank_steps.hpp"

#include "core/error.hpp"
#include "measure/statistics.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace moesaic::measure {

double RankSteps::seconds_of(const core::trace::ScopeName& scope) const {
    const auto found = scopes.find(scope.name);
    core::require(found != scopes.end(), core::ExitCode::runtime_failure,
                  "the trace of a step has no scope {} (it has {} others); please report it", scope.name,
                  scopes.size());
    return found->second;
}

RankSteps sum_up(const Trace& trace, const Timeline& timeline) {
    RankSteps rank;
    std::vector<double> seconds;
    std::vector<double> of_name(trace.names.size(), -1);  // below 0: no such scope
    const auto add_scope = [&](int name, double us) {
        double& sum = of_name[static_cast<std::size_t>(name)];
        sum = std::max(0.0, sum) + seconds_per_us * us;
    };
    const auto is_exchange = [&](const TraceInterval& scope) {
        return core::trace::phase_of(trace.names[static_cast<std::size_t>(scope.name)]) ==
               core::trace::phase_of(core::scopes::exchange_dispatch.name);
    };
    const int recompute = trace.index_of(core::scopes::recompute.name);
    for (const TraceInterval& step : timeline.steps) {
        seconds.push_back(seconds_per_us * step.duration());
        rank.total += seconds.back();
        add_phases(trace, timeline, step.begin, step.end, rank.phases);
        double recomputed = step.begin;  // up to here
        for (const TraceInterval& scope : that_begin_in(timeline.scopes, step.begin, step.end)) {
            if (scope.begin >= recomputed) {
                add_scope(scope.name, scope.duration());
                recomputed = scope.name == recompute ? scope.end : recomputed;
            }
            if (is_exchange(scope)) {
                rank.exchange += seconds_per_us * scope.duration();
                for_each_overlap(timeline.passes, scope.begin, scope.end,
                                 [&](const Segment&, double us) { rank.hidden += seconds_per_us * us; });
            }
        }
        for (const Segment& pass : that_begin_in(timeline.passes, step.begin, step.end)) {
            add_scope(pass.name, pass.end - pass.begin);
        }
        for (const Call& call : that_begin_in(timeline.calls, step.begin, step.end)) {
            for_each_overlap(timeline.others, call.begin, call.end,
                             [&](const Segment&, double us) { rank.overlapped += seconds_per_us * us; });
        }
    }
    rank.median = seconds.empty() ? 0 : summarize(std::move(seconds)).median;
    for (std::size_t name = 0; name < of_name.size(); ++name) {
        if (of_name[name] >= 0) {
            rank.scopes[trace.names[name]] = of_name[name];
        }
    }
    return rank;
}

void split_calls(std::span<const Call> calls, const std::map<std::uint64_t, Arrival>& arrivals, Clocks clocks,
                 RankSteps& rank) {
    for (const Call& call : calls) {
        const Arrival& arrival = arrivals.at(call.call);
        const double duration = call.end - call.begin;
        const double waiting = clocks == Clocks::common ? arrival.last_begin - call.begin : duration - arrival.shortest;
        const double waited = seconds_per_us * std::clamp(waiting, 0.0, duration);
        rank.waiting += waited;
        rank.transfer += seconds_per_us * duration - waited;
        rank.alone += arrival.ranks == 1 ? seconds_per_us * duration : 0;
    }
}

double imbalance_percent(std::span<const RankSteps> ranks) {
    double sum = 0;
    double longest = 0;
    for (const RankSteps& rank : ranks) {
        sum += rank.computing();
        longest = std::max(longest, rank.computing());
    }
    return sum > 0 ? 100 * (longest * static_cast<double>(ranks.size()) / sum - 1) : 0;
}

}  // namespace moesaic::measure
