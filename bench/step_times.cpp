#include "bench/step_times.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <string_view>

namespace moesaic::bench {
namespace {

using core::index_t;
using core::trace::Event;

double seconds(const Event& event) {
    return static_cast<double>(event.end_ns - event.begin_ns) * 1e-9;
}

}  // namespace

StepTrace trace_of_step(std::span<const Event> events) {
    const auto is_step = [](const Event& event) { return std::string_view(event.name) == "step"; };
    const auto step = std::find_if(events.begin(), events.end(), is_step);
    core::require(step != events.end(), core::ExitCode::runtime_failure,
                  "the trace has no step ({} events); please report it", events.size());
    std::vector<Event> inside;
    std::copy_if(events.begin(), events.end(), std::back_inserter(inside), [&](const Event& event) {
        return event.thread == step->thread && event.begin_ns >= step->begin_ns && event.end_ns <= step->end_ns &&
               std::string_view(event.category) != "thread";  // this thread's share of a scope around it
    });
    std::stable_sort(inside.begin(), inside.end(), [](const Event& a, const Event& b) {
        return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
    });
    StepTrace trace;
    trace.total = seconds(*step);
    std::int64_t end_of_collective = 0;
    for (const Event& event : inside) {
        trace.of_scope[event.name] += seconds(event);
        if (std::string_view(event.category) == "mpi" && event.begin_ns >= end_of_collective) {  // not inside another
            trace.collectives.push_back(seconds(event));
            end_of_collective = event.end_ns;
        }
    }
    return trace;
}

std::vector<StepShares> share_out(const mpi::Communicator& world, const StepTrace& mine) {
    const auto ranks = static_cast<std::size_t>(world.size());
    const auto count = static_cast<index_t>(mine.collectives.size());
    core::require(world.min(count) == world.max(count), core::ExitCode::runtime_failure,
                  "ranks differ in the number of collectives of a step ({} here); please report it", count);
    std::vector<double> row = mine.collectives;
    row.push_back(mine.total);
    const std::size_t width = row.size();
    std::vector<double> all(world.is_root() ? ranks * width : 0);
    world.gather_blocks<double>(row, all, std::vector<index_t>(ranks, static_cast<index_t>(width)));
    if (!world.is_root()) {
        return {};
    }
    std::vector<StepShares> shares(ranks);
    for (std::size_t c = 0; c + 1 < width; ++c) {
        double shortest = all[c];
        for (std::size_t r = 1; r < ranks; ++r) {
            shortest = std::min(shortest, all[r * width + c]);
        }
        for (std::size_t r = 0; r < ranks; ++r) {
            shares[r].transfer += shortest;
            shares[r].waiting += all[r * width + c] - shortest;
        }
    }
    for (std::size_t r = 0; r < ranks; ++r) {
        shares[r].total = all[(r + 1) * width - 1];
    }
    return shares;
}

double imbalance_percent(std::span<const StepShares> ranks) {
    double sum = 0;
    double longest = 0;
    for (const StepShares& rank : ranks) {
        sum += rank.computing();
        longest = std::max(longest, rank.computing());
    }
    return 100 * (longest * static_cast<double>(ranks.size()) / sum - 1);
}

}  // namespace moesaic::bench
