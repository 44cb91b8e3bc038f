#include "mpi/watchdog.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/error.hpp"
#include "core/options.hpp"
#include "host/placement.hpp"
#include "mpi/communicator.hpp"
#include "mpi/progress.hpp"
#include "mpi/start_limit.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>

namespace moesaic::mpi {

namespace {

/// After so long a rank speaks although it would be the turn of a lower one.
constexpr double patience_seconds = 5;

/// "mpi.sum of step 3"
std::string where(const Heartbeat& heartbeat) {
    return heartbeat.step > 0 ? fmt::format("{} of step {}", heartbeat.call, heartbeat.step)
                              : std::string(heartbeat.call);
}

/// Why a rank is missing in the collective of another one; empty if it waits too.
std::string absence(const Peer& peer, double silence) {
    if (!peer.last) {
        return "never heard of";
    }
    if (peer.silent_seconds > silence) {
        return fmt::format("silent for {:.0f} s, last {} {}", peer.silent_seconds,
                           peer.last->is_waiting != 0 ? "in" : "after", where(*peer.last));
    }
    return peer.last->is_waiting != 0
               ? ""
               : fmt::format("computing for {:.0f} s after {}", static_cast<double>(peer.last->unchanged_ms) * 1e-3,
                             where(*peer.last));
}

/// Signals are for the main thread, whose handlers ask for a checkpoint.
class SignalsBlocked {
public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

private:
    sigset_t before_{};
};

}  // namespace

std::string describe_stall(const Heartbeat& mine, const std::vector<Peer>& peers, double silence) {
    constexpr int most = 8;  // of a thousand ranks a few say enough
    std::string missing;
    std::string waiting;
    int missing_ranks = 0;
    for (std::size_t rank = 0; rank < peers.size(); ++rank) {
        if (static_cast<std::int32_t>(rank) == mine.rank) {
            continue;
        }
        const Peer& peer = peers[rank];
        const std::string reason = absence(peer, silence);
        if (!reason.empty() && ++missing_ranks <= most) {
            missing += fmt::format("{}rank {} on {}: {}", missing.empty() ? "" : "; ", rank, peer.host, reason);
        } else if (reason.empty() && waiting.empty()) {
            waiting = fmt::format("rank {} on {} is in {}", rank, peer.host, where(*peer.last));
        }
    }
    if (missing_ranks > most) {
        missing += fmt::format("; and {} more", missing_ranks - most);
    }
    return fmt::format(
        "no progress for {:.0f} s in {} (waiting for {}); see what became of {}, or raise output.watchdog",
        static_cast<double>(mine.unchanged_ms) * 1e-3, where(mine),
        missing_ranks > 0 ? missing : fmt::format("a message: all ranks wait, {}", waiting),
        missing_ranks > 0 ? "those ranks, their hosts and the network" : "the network");
}

void WatchdogSettings::declare(core::OptionSet& set) {
    set.add("output.watchdog", limit_seconds, "seconds that a rank may wait for others before the job ends; 0: forever",
            core::within(0, 1e9));
}

Watchdog::Watchdog(const Communicator& world, double limit_seconds)
    : progress_(&world.progress()), rank_(world.rank()), limit_(limit_seconds) {
    if (limit_ <= 0 || world.size() == 1) {
        return;
    }
    const StartLimit until_it_runs(limit_);
    interval_ = std::clamp(limit_ / 20, 0.05, 5.0);
    silence_ = 4 * interval_;
    for (const std::string& name : world.all_gather(host::host_name())) {
        peers_.push_back({name, std::nullopt, 0});
    }
    socket_.emplace(world);
    world.agree([&] {
        stop_event_ = ::eventfd(0, EFD_CLOEXEC);
        core::require(stop_event_ >= 0, core::ExitCode::runtime_failure,
                      "the watchdog can't start (no file descriptor left); raise the limit of open files");
    });
    const SignalsBlocked blocked;
    thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
    if (thread_.joinable()) {
        ::eventfd_write(stop_event_, 1);
        thread_.join();
    }
    if (stop_event_ >= 0) {
        ::close(stop_event_);
    }
}

void Watchdog::watch() {
    std::array<pollfd, 2> sources = {pollfd{stop_event_, POLLIN, 0}, pollfd{socket_->descriptor(), POLLIN, 0}};
    Clock::time_point last = Clock::now();
    for (;;) {
        const double due = interval_ - std::chrono::duration<double>(Clock::now() - last).count();
        ::poll(sources.data(), sources.size(), static_cast<int>(std::max(due, 0.0) * 1e3) + 1);
        if (sources[0].revents != 0) {
            return;
        }
        listen();
        const double elapsed = std::chrono::duration<double>(Clock::now() - last).count();
        if (elapsed >= interval_) {
            last = Clock::now();
            look(std::min(elapsed, 2 * interval_));  // more means that this process was suspended
        }
    }
}

void Watchdog::listen() {
    Heartbeat heartbeat;
    while (socket_->receive(heartbeat)) {
        Peer& peer = peers_[static_cast<std::size_t>(heartbeat.rank)];
        peer.last = heartbeat;
        peer.silent_seconds = 0;
        job_ends_ = job_ends_ || heartbeat.ends_job != 0;
    }
}

void Watchdog::look(double elapsed) {
    const std::int64_t count = progress_->count();
    const std::int32_t is_waiting = progress_->is_waiting() ? 1 : 0;
    unchanged_seconds_ = count == mine_.count && is_waiting == mine_.is_waiting ? unchanged_seconds_ + elapsed : 0;
    mine_.rank = rank_;
    mine_.is_waiting = is_waiting;
    mine_.count = count;
    mine_.step = progress_->step();
    mine_.unchanged_ms = static_cast<std::int64_t>(unchanged_seconds_ * 1e3);
    std::snprintf(mine_.call, sizeof mine_.call, "%s", progress_->call());
    socket_->send(mine_);
    for (Peer& peer : peers_) {
        peer.silent_seconds += elapsed;
    }
    // A rank that should speak first may itself be unable to.
    const bool is_overdue = unchanged_seconds_ >= limit_ + patience_seconds;
    if (!job_ends_ && is_waiting != 0 && unchanged_seconds_ >= limit_ && (is_overdue || is_my_turn())) {
        end_job();
    }
}

/// The lowest rank that waits speaks for all.
bool Watchdog::is_my_turn() const {
    return std::none_of(peers_.begin(), peers_.begin() + rank_, [&](const Peer& peer) {
        return peer.last && peer.last->is_waiting != 0 && peer.silent_seconds <= silence_;
    });
}

void Watchdog::end_job() {
    mine_.ends_job = 1;
    socket_->send(mine_);
    fmt::print(stderr, "moesaic: rank {}: {}\n", rank_, describe_stall(mine_, peers_, silence_));
    // MPI does not promise that another thread than the main one may abort; but that one hangs inside of MPI.
    Environment::abort(static_cast<int>(core::ExitCode::runtime_failure));
}

}  // namespace moesaic::mpi
