// A thread that runs one job at a time while its owner does something else.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace moesaic::core {

/// The thread starts with the first job and ends with the object. Its OpenMP team has the size and the places of the
/// team of whoever submits that job.
class Worker {
public:
    Worker() = default;
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// Starts `job`; the previous one must have been waited for.
    void submit(std::function<void()> job);
    /// Blocks until the job has ended and throws what it threw.
    void wait();

private:
    void run();

    std::mutex mutex_;
    std::condition_variable changed_;
    std::function<void()> job_;
    std::exception_ptr error_;
    bool busy_ = false;
    bool stop_ = false;
    std::thread thread_;
};

}  // namespace moesaic::core
