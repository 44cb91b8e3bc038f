#include "measure/trace.hpp"

namespace moesaic::measure {

int Trace::index_of(const std::string& name) const {
    const auto found = numbers.find(name);
    return found == numbers.end() ? -1 : found->second;
}

int Trace::add_name(const std::string& name) {
    const auto [place, is_new] = numbers.try_emplace(name, static_cast<int>(names.size()));
    if (is_new) {
        names.push_back(name);
    }
    return place->second;
}

void Trace::add(int rank, std::span<const core::trace::Event> events) {
    constexpr double us_per_ns = 1e-3;
    std::vector<TraceInterval>& intervals = ranks[rank];
    intervals.reserve(intervals.size() + events.size());
    for (const core::trace::Event& event : events) {
        intervals.push_back({.begin = us_per_ns * static_cast<double>(event.begin_ns),
                             .end = us_per_ns * static_cast<double>(event.end_ns),
                             .name = add_name(event.name),
                             .category = add_name(event.category),
                             .thread = event.thread,
                             .bytes = event.bytes,
                             .call = event.transfer.call});
    }
}

}  // namespace moesaic::measure
