#include "measure/step_times.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"

#include <array>
#include <cstring>
#include <map>
#include <string>

namespace moesaic::measure {

using core::index_t;

StepTrace trace_of_step(std::span<const core::trace::Event> events) {
    Trace trace;
    trace.add(0, events);
    const std::map<int, Timeline> timelines = timelines_of(trace);
    core::require(!timelines.empty(), core::ExitCode::runtime_failure,
                  "the trace has no scope {} ({}); please report it", core::scopes::step.name,
                  core::counted(events.size(), "event"));
    const Timeline& timeline = timelines.begin()->second;
    const TraceInterval& step = timeline.steps.front();
    const auto calls = that_begin_in(timeline.calls, step.begin, step.end);
    return {sum_up(trace, timeline), {calls.begin(), calls.end()}};
}

std::vector<RankSteps> share_out(const mpi::Communicator& world, const StepTrace& mine) {
    const auto texts =
        world.gather(std::string(reinterpret_cast<const char*>(mine.calls.data()), mine.calls.size() * sizeof(Call)));
    constexpr std::size_t sums = 3;
    const std::array<double, sums> row = {mine.rank.total, mine.rank.exchange, mine.rank.hidden};
    std::vector<double> rows(world.is_root() ? static_cast<std::size_t>(world.size()) * sums : 0);
    world.gather_blocks<double>(row, rows, std::vector<index_t>(static_cast<std::size_t>(world.size()), sums));
    std::map<int, Timeline> timelines;  // of calls alone
    for (std::size_t r = 0; r < texts.size(); ++r) {
        std::vector<Call>& calls = timelines[static_cast<int>(r)].calls;
        calls.resize(texts[r].size() / sizeof(Call));
        std::memcpy(calls.data(), texts[r].data(), texts[r].size());
    }
    const auto arrivals = arrivals_of(timelines);
    std::vector<RankSteps> ranks(texts.size());
    for (std::size_t r = 0; r < ranks.size(); ++r) {
        ranks[r].total = rows[r * sums];
        ranks[r].exchange = rows[r * sums + 1];
        ranks[r].hidden = rows[r * sums + 2];
        split_calls(timelines.at(static_cast<int>(r)).calls, arrivals, Clocks::own, ranks[r]);
    }
    return ranks;
}

}  // namespace moesaic::measure
