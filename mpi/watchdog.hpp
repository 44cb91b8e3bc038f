// Ends a job whose ranks wait for each other in vain, and says for whom.
#pragma once

#include "mpi/heartbeat.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::mpi {

class Communicator;
class Progress;

/// What one rank knows of another one.
struct Peer {
    std::string host;
    std::optional<Heartbeat> last;  ///< none: never heard of
    double silent_seconds = 0;      ///< since `last`, or since the start
};

/// One line for people: PROBLEM (WHY); SUGGESTION. `mine` is this rank, which waits; peers[rank] stand for all ranks.
/// A rank counts as silent after `silence` seconds.
[[nodiscard]] std::string describe_stall(const Heartbeat& mine, const std::vector<Peer>& peers, double silence);

struct WatchdogSettings {
    double limit_seconds = 600;  ///< 0: forever

    void declare(core::OptionSet& set);
};

/// While it lives, a thread of every rank tells the other ranks by datagrams what the rank is doing. A rank that waits
/// in one collective for longer than the limit prints one line that names the collective, the step and the ranks that
/// are missing, and ends all ranks with exit code 1. Time in which the process itself is suspended does not count.
class Watchdog {
public:
    /// Collective. `limit_seconds` = 0, or a world of one rank: does nothing.
    Watchdog(const Communicator& world, double limit_seconds);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

private:
    using Clock = std::chrono::steady_clock;

    void watch();
    void listen();
    /// `elapsed` seconds after the last look.
    void look(double elapsed);
    [[nodiscard]] bool is_my_turn() const;
    [[noreturn]] void end_job();

    const Progress* progress_ = nullptr;
    int rank_ = 0;
    double limit_ = 0;     ///< seconds
    double interval_ = 0;  ///< seconds between heartbeats
    double silence_ = 0;   ///< seconds without a heartbeat after which a rank counts as silent
    std::optional<HeartbeatSocket> socket_;
    int stop_event_ = -1;  ///< an eventfd that wakes the thread up
    // Of the thread, once it runs:
    Heartbeat mine_;
    double unchanged_seconds_ = 0;
    bool job_ends_ = false;    ///< by another rank, which has said why
    std::vector<Peer> peers_;  // all ranks
    std::thread thread_;
};

}  // namespace moesaic::mpi
