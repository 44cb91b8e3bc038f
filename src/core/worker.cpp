#include "core/worker.hpp"

#include <omp.h>

#include <utility>

namespace moesaic::core {

Worker::~Worker() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void Worker::submit(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) {
        thread_ = std::thread([this] { run(); });
    }
    // A new thread starts with the team size of the environment, not with the one set by its creator.
    job_ = [team = omp_get_max_threads(), work = std::move(job)] {
        omp_set_num_threads(team);
        work();
    };
    busy_ = true;
    changed_.notify_all();
}

void Worker::wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !busy_; });
    if (error_ != nullptr) {
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

void Worker::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return stop_ || busy_; });
        if (!busy_) {
            return;
        }
        const std::function<void()> job = std::exchange(job_, nullptr);
        lock.unlock();
        std::exception_ptr error;
        try {
            job();
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        error_ = error;
        busy_ = false;
        changed_.notify_all();
    }
}

}  // namespace moesaic::core
