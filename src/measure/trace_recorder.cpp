#include "measure/trace_recorder.hpp"

#include "core/error.hpp"
#include "core/trace.hpp"
#include "host/process_memory.hpp"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace moesaic::measure {
namespace {

namespace trace = core::trace;

constexpr std::chrono::milliseconds flush_interval{100};

/// The number keeps its width, so that the end of the file never gets shorter.
std::string end_of_file(std::int64_t dropped) {
    return fmt::format("\n],\"otherData\":{{\"dropped_events\":{:10}}}}}\n", dropped);
}

}  // namespace

TraceRecorder::TraceRecorder(const Settings& settings)
    : formatter_(settings.rank, settings.origin_ns), largest_file_(settings.largest_file) {
    std::string begin(trace_begin);
    formatter_.append_process_name(begin, settings.process_name);
    file_ = std::make_unique<io::GrowingJson>(settings.file, begin, end_of_file(0));
    sampled_ns_ = trace::now_ns();
    drain_.emplace([this](const std::vector<trace::Event>& events) { write(events); }, flush_interval,
                   settings.processing_units);
}

std::int64_t TraceRecorder::dropped() const {
    return trace::dropped() + not_written_;
}

void TraceRecorder::write(const std::vector<trace::Event>& events) {
    sample_counters(events);
    const std::vector<trace::Counter> counters = trace::take_counters();
    std::string members;
    if (file_ != nullptr && file_->size() < largest_file_) {
        formatter_.append(members, events);
        formatter_.append(members, counters);
    } else {
        not_written_ += std::ssize(events) + std::ssize(counters);
    }
    try {
        if (file_ != nullptr) {
            file_->append(members, end_of_file(dropped()));
        }
    } catch (const core::Error&) {
        // A full disk ends the trace, not the run.
        file_ = nullptr;
        not_written_ += std::ssize(events) + std::ssize(counters);
    }
}

/// Memory of the process, and the rate at which it sent bytes since the last call.
void TraceRecorder::sample_counters(std::span<const trace::Event> events) {
    std::int64_t sent = 0;
    for (const trace::Event& event : events) {
        sent += event.transfer.sent != 0 ? event.bytes : 0;
    }
    const std::int64_t now = trace::now_ns();
    const double seconds = 1e-9 * static_cast<double>(now - std::exchange(sampled_ns_, now));
    trace::count(core::counters::resident_memory, {"bytes"},
                 {static_cast<std::int64_t>(host::resident_memory_bytes())});
    trace::count(core::counters::mpi_bandwidth, {"bytes/s"}, {std::llround(static_cast<double>(sent) / seconds)});
}

}  // namespace moesaic::measure
