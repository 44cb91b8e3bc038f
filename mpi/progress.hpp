// What the main thread of this rank is doing: in which collective it waits, and in which step.
#pragma once

#include "core/trace.hpp"

#include <atomic>
#include <cstdint>

namespace moesaic::mpi {

/// Written by the main thread with a few relaxed stores per collective; read by the watchdog's thread, which may see
/// the members of two moments mixed: good enough for a message.
class Progress {
public:
    /// The main thread waits in the collective `name`, a string literal, until leave().
    void enter(const char* name) noexcept {
        if (depth_++ == 0) {
            changed_ns_ = core::trace::now_ns();
            call_.store(name, std::memory_order_relaxed);
            count_.fetch_add(1, std::memory_order_relaxed);
            waiting_.store(true, std::memory_order_release);
        }
    }
    void leave() noexcept {
        if (--depth_ == 0) {
            waited_ns_ += core::trace::now_ns() - changed_ns_;
            waiting_.store(false, std::memory_order_release);
        }
    }
    void set_step(std::int64_t step) noexcept { step_.store(step, std::memory_order_relaxed); }

    [[nodiscard]] bool is_waiting() const noexcept { return waiting_.load(std::memory_order_acquire); }
    /// Name of the present or last collective.
    [[nodiscard]] const char* call() const noexcept { return call_.load(std::memory_order_relaxed); }
    /// Collectives entered so far.
    [[nodiscard]] std::int64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
    /// The training step, from 1; 0 outside of training.
    [[nodiscard]] std::int64_t step() const noexcept { return step_.load(std::memory_order_relaxed); }
    /// Nanoseconds spent in finished collectives; for the main thread only.
    [[nodiscard]] std::int64_t waited_ns() const noexcept { return waited_ns_; }

private:
    std::atomic<bool> waiting_{false};
    std::atomic<const char*> call_{"the start"};
    std::atomic<std::int64_t> count_{0};
    std::atomic<std::int64_t> step_{0};
    // Of the main thread alone; collectives that are made of others nest.
    int depth_ = 0;
    std::int64_t changed_ns_ = 0;
    std::int64_t waited_ns_ = 0;
};

}  // namespace moesaic::mpi
