#include "core/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <memory>
#include <mutex>
#include <set>

namespace moesaic::core::trace {
namespace {

/// Bounds the memory of one thread's buffer: 2^20 events of 48 bytes.
constexpr std::size_t events_per_thread = std::size_t{1} << 20U;

struct ThreadBuffer {
    int thread = 0;
    std::vector<Event> events;
};

std::atomic<bool> recording{false};
std::atomic<std::int64_t> dropped_events{0};
std::mutex buffers_mutex;
std::vector<std::unique_ptr<ThreadBuffer>> buffers;  // guarded by buffers_mutex; entries live as long as the process

ThreadBuffer& buffer_of_this_thread() {
    thread_local ThreadBuffer* mine = nullptr;
    if (mine == nullptr) {
        const std::lock_guard lock(buffers_mutex);
        buffers.push_back(std::make_unique<ThreadBuffer>());
        mine = buffers.back().get();
        mine->thread = static_cast<int>(buffers.size()) - 1;
    }
    return *mine;
}

}  // namespace

void enable(bool on) noexcept {
    recording.store(on, std::memory_order_relaxed);
}

bool enabled() noexcept {
    return recording.load(std::memory_order_relaxed);
}

std::int64_t now_ns() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

Scope::~Scope() {
    if (begin_ < 0) {
        return;
    }
    try {
        ThreadBuffer& buffer = buffer_of_this_thread();
        if (buffer.events.size() < events_per_thread) {
            buffer.events.push_back({name_, category_, begin_, now_ns(), bytes_, buffer.thread});
            return;
        }
    } catch (const std::bad_alloc&) {
        // A trace is worth less than the run that it describes: count the event as dropped.
    }
    dropped_events.fetch_add(1, std::memory_order_relaxed);
}

std::vector<Event> take() {
    const std::lock_guard lock(buffers_mutex);
    std::vector<Event> all;
    for (const auto& buffer : buffers) {
        all.insert(all.end(), buffer->events.begin(), buffer->events.end());
        buffer->events.clear();
    }
    return all;
}

std::int64_t dropped() noexcept {
    return dropped_events.load(std::memory_order_relaxed);
}

std::string to_chrome_events(const std::vector<Event>& events, int rank, std::string_view process_name,
                             std::int64_t offset_ns) {
    std::string out = fmt::format(
        R"({{"name":"process_name","ph":"M","pid":{0},"tid":0,"args":{{"name":"{1}"}}}},
{{"name":"process_sort_index","ph":"M","pid":{0},"tid":0,"args":{{"sort_index":{0}}}}})",
        rank, process_name);
    std::set<int> threads;
    for (const Event& event : events) {
        threads.insert(event.thread);
    }
    auto sink = std::back_inserter(out);
    for (const int thread : threads) {
        fmt::format_to(sink,
                       ",\n"
                       R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":"thread {}"}}}})",
                       rank, thread, thread);
    }
    for (const Event& event : events) {
        const double begin = static_cast<double>(event.begin_ns + offset_ns) * 1e-3;
        const double duration = static_cast<double>(event.end_ns - event.begin_ns) * 1e-3;
        fmt::format_to(sink,
                       ",\n"
                       R"({{"name":"{}","cat":"{}","ph":"X","ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{})",
                       event.name, event.category, begin, duration, rank, event.thread);
        if (event.bytes >= 0) {
            fmt::format_to(sink, R"(,"args":{{"bytes":{}}})", event.bytes);
        }
        out += '}';
    }
    return out;
}

}  // namespace moesaic::core::trace
