// Datagrams by which ranks tell each other what they are doing. MPI can't: it may be what hangs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moesaic::mpi {

class Communicator;

/// What a rank is doing, as it travels between hosts of one architecture.
struct Heartbeat {
    std::uint64_t job = 0;  ///< a random number, the same on all ranks of one job
    std::int32_t rank = 0;
    std::int32_t is_waiting = 0;    ///< in the collective `call`; otherwise it was the last one
    std::int32_t ends_job = 0;      ///< has said why and ends all ranks
    std::int64_t count = 0;         ///< collectives so far
    std::int64_t step = 0;          ///< 0: outside of training
    std::int64_t unchanged_ms = 0;  ///< how long it has been waiting, or computing
    char call[32] = "";             ///< name of a collective, zero-terminated
};

/// A UDP socket on every rank of a job. Heartbeats may get lost, and on hosts without IPv4 they do not travel.
class HeartbeatSocket {
public:
    /// Collective.
    explicit HeartbeatSocket(const Communicator& world);
    ~HeartbeatSocket();
    HeartbeatSocket(const HeartbeatSocket&) = delete;
    HeartbeatSocket& operator=(const HeartbeatSocket&) = delete;

    /// Readable when a heartbeat has arrived.
    [[nodiscard]] int descriptor() const noexcept { return socket_; }
    /// Sends to all other ranks; never blocks. `heartbeat` needs no `job` and `rank`.
    void send(Heartbeat heartbeat) const noexcept;
    /// Takes one that has arrived from another rank of the job; false if there is none. Anything else is dropped.
    [[nodiscard]] bool receive(Heartbeat& heartbeat) const noexcept;

private:
    struct Address {
        std::uint32_t host;  ///< IPv4, network byte order
        std::uint16_t port;  ///< network byte order
    };
    void exchange_addresses(const Communicator& world);

    int socket_;
    int rank_;
    int ranks_;
    std::uint64_t job_ = 0;
    std::vector<Address> peers_;
};

}  // namespace moesaic::mpi
