// Trace scopes: named intervals of every thread and counters, kept in bounded buffers until somebody takes them.
#pragma once

#include "core/scopes.hpp"
#include "core/tick_clock.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace moesaic::core::trace {

/// The message arrows of one transfer: equal numbers on two ranks are the two ends of an arrow. 0: none.
struct Transfer {
    std::uint64_t call;  ///< the same on all ranks of a collective call, and of no other
    std::uint64_t sent;
    std::uint64_t received;
};

/// One finished interval. Times are nanoseconds of the monotonic clock of this host.
struct Event {
    const char* name;      ///< lives as long as the process
    const char* category;  ///< the same
    std::int64_t begin_ns;
    std::int64_t end_ns;
    std::int64_t bytes;  ///< payload of a transfer, or -1
    int thread;          ///< index of the thread in this process
    Transfer transfer = {};
};

/// Values of one or several quantities at one moment.
struct Counter {
    std::string name;
    std::vector<std::string> series;  ///< names of the values; empty: their numbers
    std::vector<std::int64_t> values;
    std::int64_t at_ns = 0;
};

/// Starts or stops recording in this process. When off, a scope costs one relaxed load.
void enable(bool on);
[[nodiscard]] bool enabled() noexcept;

/// Nanoseconds of the monotonic clock.
[[nodiscard]] inline std::int64_t now_ns() noexcept {
    return monotonic_ns();
}

/// Records the interval from construction to destruction on the calling thread.
class Scope {
public:
    /// `bytes`: payload of a transfer.
    explicit Scope(const ScopeName& name, std::int64_t bytes = -1) noexcept;
    /// The calling thread's share of the scope that its team works for; records nothing for no scope.
    [[nodiscard]] static Scope share_of(const ScopeName& work) noexcept {
        return Scope(ScopeName(work.name, category::thread));
    }
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    /// Call while the scope is open.
    void set_transfer(const Transfer& transfer) noexcept { transfer_ = transfer; }

private:
    ScopeName name_;
    ScopeName outer_;
    std::int64_t bytes_;
    Transfer transfer_{};
    std::int64_t begin_;
};

/// The innermost open scope of the calling thread, or none; what a team of threads works on for it.
[[nodiscard]] ScopeName innermost_scope() noexcept;

/// Records values of this moment, if recording is on.
void count(std::string name, std::vector<std::string> series, std::vector<std::int64_t> values);

/// Takes the events recorded so far, in order of their end on each thread.
[[nodiscard]] std::vector<Event> take();
[[nodiscard]] std::vector<Counter> take_counters();
/// Events and counters that were not kept because a buffer was full.
[[nodiscard]] std::int64_t dropped() noexcept;
/// Rate of the time stamps; valid after `take`.
[[nodiscard]] double ticks_per_second();

}  // namespace moesaic::core::trace
