// Recording of this process, taken out of the bounded buffers of its threads all the while.
#pragma once

#include "core/trace.hpp"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moesaic::measure {

/// Records from its construction to stop(). A thread of its own takes the events all the while, so that there may
/// be any number of them. There is one at a time: buffers belong to the process.
class TraceDrain {
public:
    using Use = std::function<void(std::vector<core::trace::Event>)>;

    /// `use` is called in the drain's thread every `interval`, one call after the other. `processing_units`: where the
    /// thread may run; empty: as the calling thread.
    TraceDrain(Use use, std::chrono::milliseconds interval, std::vector<int> processing_units = {});
    /// Stops.
    ~TraceDrain();
    TraceDrain(const TraceDrain&) = delete;
    TraceDrain& operator=(const TraceDrain&) = delete;

    /// Ends recording. All that was recorded has been used then.
    void stop();

private:
    void run();

    Use use_;
    std::chrono::milliseconds interval_;
    std::vector<int> processing_units_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;  ///< guarded by mutex_
    std::thread thread_;
};

/// All events of this process from its construction on, in memory.
class EventCollector {
public:
    EventCollector();

    /// Ends recording; all that was recorded.
    [[nodiscard]] std::vector<core::trace::Event> stop();

private:
    std::vector<core::trace::Event> events_;
    TraceDrain drain_;
};

}  // namespace moesaic::measure
