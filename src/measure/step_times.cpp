#include "measure/step_times.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

namespace moesaic::measure {
namespace {

using core::index_t;
using core::trace::Event;

/// Often enough for the buffers of threads, and so seldom that it disturbs nothing.
constexpr std::chrono::milliseconds interval(50);

double seconds(const Event& event) {
    return static_cast<double>(event.end_ns - event.begin_ns) * 1e-9;
}

/// Whether this is a thread's share of a scope around it.
bool is_share(const Event& event) {
    return std::string_view(event.category) == core::trace::category::thread;
}

/// Scopes inside of a pass have other names.
bool is_pass_of_experts(const Event& event) {
    const std::string_view name = event.name;
    return !is_share(event) &&
           (name == core::scopes::experts_forward.name || name == core::scopes::experts_backward.name);
}

bool is_exchange(const Event& event) {
    return core::trace::phase_of(event.name) == core::trace::phase_of(core::scopes::exchange_dispatch.name);
}

/// Adds what the experts' worker did to the trace of the thread that made the step, whose events, in order, are
/// `inside`.
void add_worker(std::span<const Event> events, std::span<const Event> inside, const Event& step, StepTrace& trace) {
    std::vector<Event> exchanges;  // one after the other, as the passes are
    std::copy_if(inside.begin(), inside.end(), std::back_inserter(exchanges), is_exchange);
    auto exchange = exchanges.begin();
    for (const Event& pass : events) {
        if (!is_pass_of_experts(pass) || pass.thread == step.thread || pass.begin_ns < step.begin_ns ||
            pass.end_ns > step.end_ns) {
            continue;
        }
        trace.of_scope[pass.name] += seconds(pass);
        while (exchange != exchanges.end() && exchange->end_ns <= pass.begin_ns) {
            ++exchange;
        }
        for (auto e = exchange; e != exchanges.end() && e->begin_ns < pass.end_ns; ++e) {
            const std::int64_t common = std::min(e->end_ns, pass.end_ns) - std::max(e->begin_ns, pass.begin_ns);
            trace.hidden += static_cast<double>(common) * 1e-9;
        }
    }
}

}  // namespace

double StepTrace::seconds_of(const core::trace::ScopeName& scope) const {
    const auto found = of_scope.find(scope.name);
    core::require(found != of_scope.end(), core::ExitCode::runtime_failure,
                  "the trace of a step has no scope {} (it has {} others); please report it", scope.name,
                  of_scope.size());
    return found->second;
}

EventCollector::EventCollector() {
    core::trace::enable(true);
    static_cast<void>(core::trace::take());  // what others left
    thread_ = std::thread([this] {
        std::unique_lock lock(mutex_);
        while (!changed_.wait_for(lock, interval, [this] { return stopping_; })) {
            take();
        }
    });
}

EventCollector::~EventCollector() {
    static_cast<void>(stop());
}

std::vector<Event> EventCollector::stop() {
    if (thread_.joinable()) {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_all();
        thread_.join();
        take();
        core::trace::enable(false);
    }
    return std::move(events_);
}

void EventCollector::take() {
    const std::vector<Event> more = core::trace::take();
    events_.insert(events_.end(), more.begin(), more.end());
}

StepTrace trace_of_step(std::span<const Event> events) {
    const auto is_step = [](const Event& event) { return std::string_view(event.name) == core::scopes::step.name; };
    const auto step = std::find_if(events.begin(), events.end(), is_step);
    core::require(step != events.end(), core::ExitCode::runtime_failure,
                  "the trace has no step ({} events); please report it", events.size());
    std::vector<Event> inside;
    std::copy_if(events.begin(), events.end(), std::back_inserter(inside), [&](const Event& event) {
        return event.thread == step->thread && event.begin_ns >= step->begin_ns && event.end_ns <= step->end_ns &&
               !is_share(event);
    });
    std::stable_sort(inside.begin(), inside.end(), [](const Event& a, const Event& b) {
        return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
    });
    StepTrace trace;
    trace.total = seconds(*step);
    std::int64_t end_of_collective = 0;
    for (const Event& event : inside) {
        trace.of_scope[event.name] += seconds(event);
        trace.exchange += is_exchange(event) ? seconds(event) : 0;
        if (event.transfer.call != 0 && event.begin_ns >= end_of_collective) {  // not inside another
            trace.collectives.push_back({event.transfer.call, seconds(event)});
            end_of_collective = event.end_ns;
        }
    }
    add_worker(events, inside, *step, trace);
    return trace;
}

std::vector<StepShares> share_out(const mpi::Communicator& world, const StepTrace& mine) {
    const std::size_t bytes = mine.collectives.size() * sizeof(CollectiveTime);
    const auto texts = world.gather(std::string(reinterpret_cast<const char*>(mine.collectives.data()), bytes));
    constexpr std::size_t sums = 3;
    const std::array<double, sums> row = {mine.total, mine.exchange, mine.hidden};
    std::vector<double> rows(world.is_root() ? static_cast<std::size_t>(world.size()) * sums : 0);
    world.gather_blocks<double>(row, rows, std::vector<index_t>(static_cast<std::size_t>(world.size()), sums));
    std::vector<std::vector<CollectiveTime>> all(texts.size());
    std::map<std::uint64_t, double> shortest;  // of the ranks of a call
    for (std::size_t r = 0; r < texts.size(); ++r) {
        all[r].resize(texts[r].size() / sizeof(CollectiveTime));
        std::memcpy(all[r].data(), texts[r].data(), texts[r].size());
        for (const CollectiveTime& time : all[r]) {
            double& least = shortest.try_emplace(time.call, time.seconds).first->second;
            least = std::min(least, time.seconds);
        }
    }
    std::vector<StepShares> shares(texts.size());
    for (std::size_t r = 0; r < shares.size(); ++r) {
        shares[r] = {.total = rows[r * sums], .exchange = rows[r * sums + 1], .hidden = rows[r * sums + 2]};
        for (const CollectiveTime& time : all[r]) {
            shares[r].transfer += shortest.at(time.call);
            shares[r].waiting += time.seconds - shortest.at(time.call);
        }
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

}  // namespace moesaic::measure
