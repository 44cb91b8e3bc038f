#include "mpi/heartbeat.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.hpp"
#include "mpi/communicator.hpp"

#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <sstream>
#include <type_traits>

namespace moesaic::mpi {

static_assert(std::is_trivially_copyable_v<Heartbeat>);

namespace {

sockaddr_in address(std::uint32_t host, std::uint16_t port) {
    sockaddr_in result{};
    result.sin_family = AF_INET;
    result.sin_addr.s_addr = host;
    result.sin_port = port;
    return result;
}

/// IPv4 addresses under which this host can be reached, in network byte order; that for ranks of the same host first.
std::vector<std::uint32_t> own_hosts() {
    std::vector<std::uint32_t> hosts = {htonl(INADDR_LOOPBACK)};
    ifaddrs* found = nullptr;
    if (getifaddrs(&found) != 0) {
        return hosts;
    }
    const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(found, freeifaddrs);
    for (const ifaddrs* each = found; each != nullptr; each = each->ifa_next) {
        const bool is_usable = (each->ifa_flags & IFF_UP) != 0 && (each->ifa_flags & IFF_LOOPBACK) == 0;
        if (is_usable && each->ifa_addr != nullptr && each->ifa_addr->sa_family == AF_INET) {
            sockaddr_in ipv4{};
            std::memcpy(&ipv4, each->ifa_addr, sizeof ipv4);
            hosts.push_back(ipv4.sin_addr.s_addr);
        }
    }
    return hosts;
}

std::uint64_t random_number() {
    std::random_device device;
    return (std::uint64_t{device()} << 32U) | device();
}

}  // namespace

HeartbeatSocket::HeartbeatSocket(const Communicator& world)
    : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)),
      rank_(world.rank()),
      ranks_(world.size()) {
    world.agree([&] {
        const sockaddr_in any = address(htonl(INADDR_ANY), 0);
        core::require(socket_ >= 0 && ::bind(socket_, reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0,
                      core::ExitCode::runtime_failure,
                      "the watchdog can't open a UDP socket ({}); set output.watchdog = 0 to do without it",
                      std::strerror(errno));
    });
    exchange_addresses(world);
}

HeartbeatSocket::~HeartbeatSocket() {
    if (socket_ >= 0) {
        ::close(socket_);
    }
}

void HeartbeatSocket::exchange_addresses(const Communicator& world) {
    sockaddr_in own{};
    socklen_t length = sizeof own;
    ::getsockname(socket_, reinterpret_cast<sockaddr*>(&own), &length);
    std::string line = fmt::format("{} {}", rank_, own.sin_port);
    for (const std::uint32_t host : own_hosts()) {
        line += fmt::format(" {}", host);
    }
    const std::vector<std::string> lines = world.all_gather(line);
    job_ = world.is_root() ? random_number() : 0;
    world.broadcast(std::span<std::uint64_t>(&job_, 1));

    for (const std::string& of_rank : lines) {
        std::istringstream words(of_rank);
        int rank = 0;
        Address peer{};
        words >> rank >> peer.port;
        while (rank != rank_ && words >> peer.host) {
            peers_.push_back(peer);
        }
    }
}

void HeartbeatSocket::send(Heartbeat heartbeat) const noexcept {
    heartbeat.job = job_;
    heartbeat.rank = rank_;
    for (const Address& peer : peers_) {
        const sockaddr_in to = address(peer.host, peer.port);
        // What can't be sent is lost, like a datagram that the network drops.
        static_cast<void>(::sendto(socket_, &heartbeat, sizeof heartbeat, MSG_DONTWAIT | MSG_NOSIGNAL,
                                   reinterpret_cast<const sockaddr*>(&to), sizeof to));
    }
}

bool HeartbeatSocket::receive(Heartbeat& heartbeat) const noexcept {
    for (;;) {
        const ssize_t length = ::recv(socket_, &heartbeat, sizeof heartbeat, MSG_DONTWAIT | MSG_TRUNC);
        if (length < 0 && errno == ECONNREFUSED) {
            continue;  // an earlier datagram found nobody: a rank has ended
        }
        if (length < 0) {
            return false;
        }
        const bool is_whole = length == static_cast<ssize_t>(sizeof heartbeat) && heartbeat.job == job_;
        if (is_whole && heartbeat.rank >= 0 && heartbeat.rank < ranks_ && heartbeat.rank != rank_) {
            heartbeat.call[sizeof heartbeat.call - 1] = '\0';
            return true;
        }
    }
}

}  // namespace moesaic::mpi
