// Trace scopes: named intervals of every thread, kept in bounded buffers and written as a Chrome trace at the end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core::trace {

/// One finished interval. Times are nanoseconds of the monotonic clock of this host.
struct Event {
    const char* name;      ///< a string literal
    const char* category;  ///< a string literal: "compute", "mpi", "io", "step"
    std::int64_t begin_ns;
    std::int64_t end_ns;
    std::int64_t bytes;  ///< payload of a transfer, or -1
    int thread;          ///< index of the thread in this process
};

/// Starts or stops recording in this process. When off, a scope costs one relaxed load.
void enable(bool on) noexcept;
[[nodiscard]] bool enabled() noexcept;

/// Nanoseconds of the monotonic clock.
[[nodiscard]] std::int64_t now_ns() noexcept;

/// Records the interval from construction to destruction on the calling thread.
class Scope {
public:
    explicit Scope(const char* name, const char* category = "compute", std::int64_t bytes = -1) noexcept
        : name_(name), category_(category), bytes_(bytes), begin_(enabled() ? now_ns() : -1) {}
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

private:
    const char* name_;
    const char* category_;
    std::int64_t bytes_;
    std::int64_t begin_;
};

/// Takes the events recorded so far, in order of their end on each thread. Call while no scope is open on other
/// threads.
[[nodiscard]] std::vector<Event> take();
/// Events that were not kept because a thread's buffer was full.
[[nodiscard]] std::int64_t dropped() noexcept;

/// The events as members of a Chrome trace array, one per line, comma-separated, pid = `rank`; times in microseconds
/// after adding `offset_ns`. Format: "Trace Event Format", complete events ("ph":"X") and metadata events ("ph":"M").
[[nodiscard]] std::string to_chrome_events(const std::vector<Event>& events, int rank, std::string_view process_name,
                                           std::int64_t offset_ns);

}  // namespace moesaic::core::trace
