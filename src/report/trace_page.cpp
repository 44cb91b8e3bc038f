#include "report/trace_page.hpp"

#include "core/counted.hpp"
#include "core/scopes.hpp"
#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace moesaic::report {
namespace {

constexpr double ms = 1e3;
constexpr double us = 1e6;

double percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

/// Phases with so much of the time of all ranks that a chart can show them, the longest first; no more than there are
/// colours.
std::vector<std::string> phases_of(const measure::TraceSummary& summary) {
    constexpr double least_share = 0.015;
    measure::PhaseSeconds sums;
    double total = 0;
    for (const auto& [rank, steps] : summary.ranks) {
        for (const auto& [phase, seconds] : steps.phases) {
            sums[phase] += seconds;
            total += seconds;
        }
    }
    std::vector<std::string> phases;
    for (const auto& [phase, seconds] : sums) {
        if (seconds >= least_share * total) {
            phases.push_back(phase);
        }
    }
    std::sort(phases.begin(), phases.end(),
              [&](const std::string& a, const std::string& b) { return sums.at(a) > sums.at(b); });
    phases.resize(std::min(phases.size(), part_colours));
    return phases;
}

/// The parts of a chart: `phases`, and the others. What a step does outside of its named parts has the step's own name.
std::vector<std::string> names_of(const std::vector<std::string>& phases) {
    std::vector<std::string> names = phases;
    std::replace(names.begin(), names.end(), std::string(core::scopes::step.name), std::string("rest of the step"));
    names.emplace_back("other phases");
    return names;
}

/// Milliseconds per step of `phases`, and of all others together.
std::vector<double> stack(const measure::PhaseSeconds& seconds, const std::vector<std::string>& phases, int steps) {
    std::vector<double> values;
    double rest = 0;
    for (const auto& [phase, of_phase] : seconds) {
        rest += ms * of_phase / steps;
    }
    for (const std::string& phase : phases) {
        const auto found = seconds.find(phase);
        values.push_back(found == seconds.end() ? 0 : ms * found->second / steps);
        rest -= values.back();
    }
    values.push_back(std::max(0.0, rest));
    return values;
}

Figure time_by_phase(const measure::TraceSummary& summary) {
    const std::vector<std::string> phases = phases_of(summary);
    BarChart chart{"Time of a step by phase", {"time per step, mean", "ms"}, {}, names_of(phases), {}, true};
    for (const auto& [rank, steps] : summary.ranks) {
        chart.bars.push_back(fmt::format("rank {}", rank));
        chart.values.push_back(stack(steps.phases, phases, summary.steps));
    }
    return {chart, fmt::format(
                       "Mean of {}. Each moment counts for the innermost scope that the rank's main thread was in; all "
                       "MPI calls are collectives. The rest of the step is what lies between its named parts, such as "
                       "the choice of its sequences, counts of experts, and new factors in the compute type.",
                       core::counted(summary.steps, "step"))};
}

Table ranks_table(const measure::TraceSummary& summary) {
    Table table{"Computing, transfers and waiting",
                {{"rank", ""},
                 {"steps", ""},
                 {"step, mean", "ms"},
                 {"median", "ms"},
                 {"computing", "% of step"},
                 {"transfer", "% of step"},
                 {"waiting for others", "% of step"},
                 {"transfer and waiting overlapped with work of other threads", "%"},
                 {"sent per second, peak", "MB/s"}},
                {}};
    for (const auto& [rank, steps] : summary.ranks) {
        const auto sent = summary.peak_bandwidth.find(rank);
        const auto unless_alone = [&steps = steps](double seconds) {
            return steps.alone > 0 ? Cell("unknown") : Cell(percent(seconds, steps.total));
        };
        table.rows.push_back({static_cast<double>(rank), static_cast<double>(summary.steps),
                              ms * steps.total / summary.steps, ms * steps.median,
                              percent(steps.computing(), steps.total), unless_alone(steps.transfer),
                              unless_alone(steps.waiting), percent(steps.overlapped, steps.transfer + steps.waiting),
                              sent == summary.peak_bandwidth.end() ? 0.0 : sent->second * 1e-6});
    }
    return table;
}

Figure critical_path(const measure::TraceSummary& summary) {
    const measure::CriticalPath& path = summary.critical_path;
    const std::vector<std::string> phases = phases_of(summary);
    BarChart chart{
        "Critical path of a step", {"time per step, mean", "ms"}, {"critical path"}, names_of(phases), {}, true};
    chart.values.push_back(stack(path.phases, phases, summary.steps));
    std::string shares;
    const double computing = std::accumulate(path.by_rank.begin(), path.by_rank.end(), 0.0,
                                             [](double sum, const auto& rank) { return sum + rank.second; });
    for (const auto& [rank, seconds] : path.by_rank) {
        shares += fmt::format("{}rank {}: {:.0f} %", shares.empty() ? "" : ", ", rank, percent(seconds, computing));
    }
    return {chart,
            fmt::format("From the end of a step back to its beginning, and from each collective to the rank that came "
                        "to it last: only what lies on this path makes a step longer. It reaches from the first rank's "
                        "beginning of a step to the last rank's end. One rank begins while another still ends the "
                        "step before, so that the path is longer than the mean step of a rank. It changes ranks {:.1f} "
                        "times per step; computing on it is of {}.",
                        static_cast<double>(path.changes) / summary.steps, shares)};
}

Table threads_table(const measure::TraceSummary& summary) {
    Table table{"Balance of threads, by what the longest costs",
                {{"rank", ""},
                 {"scope", ""},
                 {"threads", ""},
                 {"work of a thread, mean", "ms per step"},
                 {"longest thread over mean", "%"}},
                {}};
    std::vector<measure::ThreadBalance> worst_first = summary.threads;
    std::stable_sort(worst_first.begin(), worst_first.end(),
                     [](const measure::ThreadBalance& a, const measure::ThreadBalance& b) {
                         return a.longest - a.mean > b.longest - b.mean;
                     });
    for (const measure::ThreadBalance& balance : worst_first) {
        table.rows.push_back({static_cast<double>(balance.rank), balance.scope, static_cast<double>(balance.threads),
                              ms * balance.mean / summary.steps, balance.imbalance_percent()});
    }
    return table;
}

Table clocks_table(const std::vector<measure::TraceSession>& sessions) {
    Table table{"Clocks of the ranks",
                {{"session", ""},
                 {"rank", ""},
                 {"clock", ""},
                 {"offset to rank 0 at the start", "us"},
                 {"at the end", "us"},
                 {"drift", "ppm"},
                 {"error at most", "us"}},
                {}};
    double number = 0;
    for (const measure::TraceSession& session : sessions) {
        ++number;
        for (const measure::RankClock& clock : session.clocks) {
            table.rows.push_back({number, clock.rank, clock.kind, clock.offset_us, clock.offset_at_end_us,
                                  clock.drift_ppm, clock.error_us});
        }
    }
    return table;
}

Section experts_section(const measure::ExpertTokens& experts) {
    HeatMap map{"Load of the experts", "layer", "expert", "of mean", experts.layers, {}, {}};
    constexpr std::array limits = {0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0};
    std::array<double, limits.size() + 1> counts{};
    for (const std::vector<double>& tokens : experts.tokens) {
        const double mean = std::accumulate(tokens.begin(), tokens.end(), 0.0) /
                            std::max<double>(1, static_cast<double>(tokens.size()));
        std::vector<double>& row = map.values.emplace_back();
        for (const double t : tokens) {
            row.push_back(mean > 0 ? t / mean : 0);
            counts[static_cast<std::size_t>(std::upper_bound(limits.begin(), limits.end(), row.back()) -
                                            limits.begin())] += 1;
        }
        while (map.columns.size() < tokens.size()) {
            map.columns.push_back(std::to_string(map.columns.size()));
        }
    }
    BarChart histogram{"Experts by their load", {"experts of all layers", ""}, {}, {"experts"}, {}};
    for (std::size_t i = 0; i <= limits.size(); ++i) {
        histogram.bars.push_back(i == 0               ? fmt::format("below {}", limits[0])
                                 : i == limits.size() ? fmt::format("{} or more", limits.back())
                                                      : fmt::format("{} to {}", limits[i - 1], limits[i]));
        histogram.values.push_back({counts[i]});
    }
    return {
        "Load of the experts",
        {Figure{
             map,
             "Tokens of all recorded steps and ranks that the routers sent to each expert, over the mean of its layer: "
             "1 is a fair share."},
         Figure{histogram, "Load in units of a fair share."}}};
}

std::ptrdiff_t sessions_without_end(const measure::Trace& trace) {
    return std::count_if(trace.sessions.begin(), trace.sessions.end(),
                         [](const measure::TraceSession& session) { return session.clocks.empty(); });
}

std::string clock_text(const measure::Trace& trace, const measure::TraceSummary& summary) {
    std::string text = fmt::format(
        "No rank can leave a barrier, a sum or a gathering of values before all have come. In {} of them, the first "
        "left {:.2f} "
        "us or more after the last had come, on the clock of rank 0; less than zero would show an error of the clocks.",
        summary.checked_collectives, us * summary.least_overlap);
    if (sessions_without_end(trace) > 0) {
        text += fmt::format(" {} did not come to {} end: clocks are compared at the start only.",
                            trace.sessions.size() == 1
                                ? "The run"
                                : fmt::format("{} of {} sessions", sessions_without_end(trace), trace.sessions.size()),
                            sessions_without_end(trace) == 1 ? "its" : "their");
    }
    return text;
}

/// Seconds by which the clocks of two ranks may differ, each of which is right within its error. Of a session that did
/// not come to its end the errors are unknown.
double tolerated_difference(const measure::Trace& trace) {
    double largest = sessions_without_end(trace) > 0 ? 1e-3 : 0;
    for (const measure::TraceSession& session : trace.sessions) {
        for (const measure::RankClock& clock : session.clocks) {
            largest = std::max(largest, 2 * clock.error_us / us);
        }
    }
    return largest;
}

/// What the reader must know before the figures.
std::vector<Paragraph> remarks(const measure::Trace& trace, const measure::TraceSummary& summary) {
    std::vector<Paragraph> all;
    if (trace.sessions.size() > 1) {
        std::string begins;
        for (const measure::TraceSession& session : trace.sessions) {
            begins += fmt::format("{}{:.2f} s", begins.empty() ? "" : ", ", session.begin / us);
        }
        all.push_back(
            {fmt::format("The trace holds {} sessions of the run, one after the other without the time "
                         "between them; they begin at {}. The figures are of all of them.",
                         trace.sessions.size(), begins)});
    }
    const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto [fewest, most] =
        std::minmax_element(summary.steps_of_ranks.begin(), summary.steps_of_ranks.end(), fewer);
    if (most != summary.steps_of_ranks.end() && most->second > static_cast<std::size_t>(summary.steps)) {
        all.push_back({fmt::format(
            "The ranks recorded {} to {} (fewest on rank {}). {}.", fewest->second, core::counted(most->second, "step"),
            fewest->first,
            summary.steps == 0
                ? "None of them is there on all ranks"
                : fmt::format("What follows is about the {} that all of them have, from {:.2f} s to {:.2f} s "
                              "of the trace",
                              summary.steps, summary.begin, summary.end))});
    }
    if (trace.ranks.size() > summary.ranks.size()) {
        all.push_back(
            {fmt::format("{} of {} recorded no step, and are left out: how long others waited for them "
                         "can't be told.",
                         trace.ranks.size() - summary.ranks.size(), core::counted(trace.ranks.size(), "rank"))});
    }
    if (std::any_of(summary.ranks.begin(), summary.ranks.end(), [](const auto& r) { return r.second.alone > 0; })) {
        all.push_back(
            {"Of some collectives only one rank left a record: how long it waited in them can't be told, and "
             "the critical path stays on it."});
    }
    if (!trace.is_complete) {
        all.push_back(
            {"The file ends in the middle: events are missing, of whole ranks perhaps, so that waiting and the "
             "critical path can't be told with certainty."});
    }
    if (trace.dropped > 0) {
        all.push_back({fmt::format("{} not kept, because buffers or files were full.",
                                   trace.dropped == 1 ? "1 event was" : fmt::format("{} events were", trace.dropped))});
    }
    const double tolerated = tolerated_difference(trace);
    if (summary.checked_collectives > 0 && summary.least_overlap < -tolerated) {
        all.push_back(
            {fmt::format("The clocks of the ranks disagree by {:.2f} us or more (at most {:.2f} us were "
                         "expected): waiting, transfer and the critical path can't be trusted, they are "
                         "wrong by as much per collective.",
                         -us * summary.least_overlap, us * tolerated)});
    }
    return all;
}

}  // namespace

std::vector<Section> sections_of(const measure::Trace& trace, const measure::TraceSummary& summary) {
    std::vector<Section> sections;
    if (!summary.experts.layers.empty()) {
        sections.push_back(experts_section(summary.experts));
    }
    Section time{"Where the time goes", {}};
    for (const Paragraph& remark : remarks(trace, summary)) {
        time.blocks.emplace_back(remark);
    }
    if (summary.steps == 0) {
        time.blocks.emplace_back(Paragraph{"The trace holds no training step that could be shown."});
        sections.push_back(time);
        return sections;
    }
    time.blocks.emplace_back(time_by_phase(summary));
    time.blocks.emplace_back(ranks_table(summary));
    if (summary.ranks.size() > 1) {
        time.blocks.emplace_back(Paragraph{fmt::format(
            "The rank that computes for longest exceeds the average by {:.1f} %.", summary.rank_imbalance_percent)});
        time.blocks.emplace_back(critical_path(summary));
    }
    if (!summary.threads.empty()) {
        time.blocks.emplace_back(threads_table(summary));
    }
    if (summary.ranks.size() > 1) {
        time.blocks.emplace_back(Paragraph{clock_text(trace, summary)});
    }
    if (Table clocks = clocks_table(trace.sessions); !clocks.rows.empty()) {
        time.blocks.emplace_back(std::move(clocks));
    }
    sections.push_back(time);
    return sections;
}

}  // namespace moesaic::report
