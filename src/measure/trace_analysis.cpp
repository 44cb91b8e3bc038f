#include "measure/trace_analysis.hpp"

#include "core/scopes.hpp"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace moesaic::measure {
namespace {

class Analysis {
public:
    explicit Analysis(const Trace& trace)
        : trace_(trace), timelines_(timelines_of(trace)), arrivals_(arrivals_of(timelines_)) {}

    TraceSummary summary() {
        std::vector<RankSteps> ranks;
        for (const auto& [rank, timeline] : timelines_) {
            summary_.steps = static_cast<int>(timeline.steps.size());
            if (summary_.steps > 0) {
                summary_.begin = seconds_per_us * timeline.steps.front().begin;
                summary_.end = seconds_per_us * timeline.steps.back().end;
            }
            summary_.steps_of_ranks[rank] = timeline.recorded_steps;
            summary_.ranks[rank] = steps_of(timeline);
            ranks.push_back(summary_.ranks[rank]);
            balance_threads(rank, timeline);
        }
        summary_.rank_imbalance_percent = imbalance_percent(ranks);
        summary_.critical_path = find_critical_path(trace_, timelines_, arrivals_);
        check_clocks();
        read_counters();
        return summary_;
    }

private:
    [[nodiscard]] RankSteps steps_of(const Timeline& timeline) const {
        RankSteps rank = sum_up(trace_, timeline);
        for (const TraceInterval& step : timeline.steps) {
            split_calls(that_begin_in(timeline.calls, step.begin, step.end), arrivals_, Clocks::common, rank);
        }
        return rank;
    }

    void balance_threads(int rank, const Timeline& timeline) {
        std::map<int, ThreadBalance> of_scope;
        for (const TraceInterval& step : timeline.steps) {
            std::map<int, std::map<int, std::vector<double>>> shares;  // scope, thread: seconds of regions
            for (const TraceInterval& share : that_begin_in(timeline.shares, step.begin, step.end)) {
                shares[share.name][share.thread].push_back(seconds_per_us * share.duration());
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

    /// These end on no rank before they have begun on all.
    void check_clocks() {
        namespace scopes = core::scopes;
        const std::set<std::string> synchronizing = {scopes::mpi_barrier.name, scopes::mpi_sum.name,
                                                     scopes::mpi_max.name, scopes::mpi_min.name,
                                                     scopes::mpi_all_gather.name};
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
        constexpr std::string_view of_experts = core::counters::tokens_per_expert;
        std::map<int, std::size_t> layers;
        for (const TraceCounter& counter : trace_.counters) {
            const std::string& name = trace_.names[static_cast<std::size_t>(counter.name)];
            const double value = counter.values.empty() ? 0 : counter.values.front();
            if (name == core::counters::resident_memory) {
                double& peak = summary_.peak_memory_bytes[counter.rank];
                peak = std::max(peak, value);
            } else if (name == core::counters::mpi_bandwidth) {
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
    std::map<int, Timeline> timelines_;
    std::map<std::uint64_t, Arrival> arrivals_;
    TraceSummary summary_;
};

}  // namespace

TraceSummary analyse(const Trace& trace) {
    return Analysis(trace).summary();
}

}  // namespace moesaic::measure
