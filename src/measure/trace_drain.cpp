#include "measure/trace_drain.hpp"

#include <sched.h>

#include <utility>

namespace moesaic::measure {
namespace {

void bind_calling_thread(const std::vector<int>& processing_units) {
    if (!processing_units.empty()) {
        cpu_set_t set;
        CPU_ZERO(&set);
        for (const int unit : processing_units) {
            CPU_SET(static_cast<std::size_t>(unit), &set);
        }
        sched_setaffinity(0, sizeof(set), &set);
    }
}

}  // namespace

TraceDrain::TraceDrain(Use use, std::chrono::milliseconds interval, std::vector<int> processing_units)
    : use_(std::move(use)), interval_(interval), processing_units_(std::move(processing_units)) {
    static_cast<void>(core::trace::take());  // what others left
    static_cast<void>(core::trace::take_counters());
    core::trace::enable(true);
    thread_ = std::thread([this] {
        bind_calling_thread(processing_units_);
        run();
    });
}

TraceDrain::~TraceDrain() {
    stop();
}

void TraceDrain::stop() {
    if (!thread_.joinable()) {
        return;
    }
    core::trace::enable(false);
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void TraceDrain::run() {
    for (bool last = false; !last;) {
        {
            std::unique_lock lock(mutex_);
            last = changed_.wait_for(lock, interval_, [this] { return stopping_; });
        }
        use_(core::trace::take());
    }
}

/// Often enough for the buffers of threads, and so seldom that it disturbs nothing.
EventCollector::EventCollector()
    : drain_(
          [this](const std::vector<core::trace::Event>& more) {
              events_.insert(events_.end(), more.begin(), more.end());
          },
          std::chrono::milliseconds(50)) {}

std::vector<core::trace::Event> EventCollector::stop() {
    drain_.stop();
    return std::move(events_);
}

}  // namespace moesaic::measure
