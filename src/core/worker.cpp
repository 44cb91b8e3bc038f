#include "core/worker.hpp"

#include <omp.h>
#include <sched.h>

#include <utility>
#include <vector>

namespace moesaic::core {
namespace {

/// Where each thread of the caller's OpenMP team may run.
std::vector<cpu_set_t> places_of_team() {
    std::vector<cpu_set_t> places(static_cast<std::size_t>(omp_get_max_threads()));
#pragma omp parallel
    sched_getaffinity(0, sizeof(cpu_set_t), &places[static_cast<std::size_t>(omp_get_thread_num())]);
    return places;
}

/// Gives the threads of the caller's team these places. A new thread inherits the place of its creator alone, and its
/// team would share it.
void take_places(const std::vector<cpu_set_t>& places) {
    omp_set_num_threads(static_cast<int>(places.size()));
#pragma omp parallel
    sched_setaffinity(0, sizeof(cpu_set_t), &places[static_cast<std::size_t>(omp_get_thread_num())]);
}

}  // namespace

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
        thread_ = std::thread([this, places = places_of_team()] {
            take_places(places);
            run();
        });
    }
    job_ = std::move(job);
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
