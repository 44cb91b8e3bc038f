// What this process does, on the disk while it does it.
#pragma once

#include "core/chrome_trace.hpp"
#include "io/growing_json.hpp"

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::measure {

/// Records trace events of this process. A thread of its own moves them from memory to a file several times per second:
/// a Chrome trace that is complete JSON at all times, whatever ends the process.
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
    /// Stops; the file stays.
    ~TraceRecorder();
    TraceRecorder(const TraceRecorder&) = delete;
    TraceRecorder& operator=(const TraceRecorder&) = delete;

    /// Ends recording. All that was recorded is in the file then.
    void stop();
    /// Events and counters that are not in the file, for want of room in memory or on the disk; after stop().
    [[nodiscard]] std::int64_t dropped() const;

private:
    void run();
    void flush();
    void sample_counters(std::span<const core::trace::Event> events);

    std::vector<int> processing_units_;
    core::trace::ChromeFormatter formatter_;
    std::uint64_t largest_file_;
    std::unique_ptr<io::GrowingJson> file_;  ///< null after a failed write
    std::int64_t not_written_ = 0;
    std::int64_t sampled_ns_ = 0;

    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;  ///< guarded by mutex_
    std::thread thread_;
};

/// The first line of the file, and how a line of an event begins; the lines of events end with a comma but for the
/// last.
inline constexpr std::string_view trace_begin = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";

}  // namespace moesaic::measure
