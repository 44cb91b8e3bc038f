// What this process does, on the disk while it does it.
#pragma once

#include "core/chrome_trace.hpp"
#include "io/growing_json.hpp"
#include "measure/trace_drain.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::measure {

/// Records trace events of this process and moves them to a file several times per second: a Chrome trace that is
/// complete JSON at all times, whatever ends the process.
class TraceRecorder {
public:
    struct Settings {
        std::filesystem::path file;
        std::string process_name;
        int rank = 0;
        std::int64_t origin_ns = 0;         ///< the moment on this host's clock that becomes zero
        std::uint64_t largest_file = 0;     ///< bytes; later events are dropped
        std::vector<int> processing_units;  ///< where the thread may run; empty: as the calling thread
    };

    explicit TraceRecorder(const Settings& settings);

    /// Bytes that the file may have from now on; later events are dropped.
    void limit_file(std::uint64_t bytes) { largest_file_ = bytes; }
    /// Ends recording. All that was recorded is in the file then, which stays.
    void stop() { drain_->stop(); }
    /// Events and counters that are not in the file, for want of room in memory or on the disk; after stop().
    [[nodiscard]] std::int64_t dropped() const;

private:
    void write(const std::vector<core::trace::Event>& events);
    void sample_counters(std::span<const core::trace::Event> events);

    core::trace::ChromeFormatter formatter_;
    std::atomic<std::uint64_t> largest_file_;
    std::unique_ptr<io::GrowingJson> file_;  ///< null after a failed write
    std::int64_t not_written_ = 0;
    std::int64_t sampled_ns_ = 0;
    std::optional<TraceDrain> drain_;  ///< the last member: it uses the others until it is gone
};

/// The first line of the file, and how a line of an event begins; the lines of events end with a comma but for the
/// last.
inline constexpr std::string_view trace_begin = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";

}  // namespace moesaic::measure
