#include "mpi/clock_alignment.hpp"

#include <algorithm>
#include <limits>
#include <span>

namespace moesaic::mpi {
namespace {

constexpr int round_trips = 64;  // at least one of which nothing disturbs

/// Rank 0 answers each request of `rank` with its time.
void answer(const Communicator& world, const Clock& clock, int rank) {
    for (int i = 0; i < round_trips; ++i) {
        std::byte request{};
        world.receive(std::span(&request, 1), rank);
        const std::int64_t now = clock();
        world.send(std::as_bytes(std::span(&now, 1)), rank);
    }
}

ClockReading ask(const Communicator& world, const Clock& clock) {
    ClockReading best;
    best.error_ns = std::numeric_limits<double>::infinity();
    for (int i = 0; i < round_trips; ++i) {
        const std::byte request{};
        const std::int64_t sent = clock();
        world.send(std::span(&request, 1), 0);
        std::int64_t root = 0;
        world.receive(std::as_writable_bytes(std::span(&root, 1)), 0);
        const std::int64_t received = clock();
        const double half = 0.5 * static_cast<double>(received - sent);
        if (half < best.error_ns) {
            best = {received, static_cast<double>(root - sent) - half, half};
        }
    }
    return best;
}

}  // namespace

ClockReading read_clock_of_root(const Communicator& world, const Clock& clock) {
    if (!world.is_root()) {
        return ask(world, clock);
    }
    for (int rank = 1; rank < world.size(); ++rank) {  // one after the other: only the first request of each waits
        answer(world, clock, rank);
    }
    return {clock(), 0, 0};
}

double ClockLine::offset_ns(double at_ns) const {
    return first_.offset_ns + (at_ns - static_cast<double>(first_.at_ns)) * drift_ppm() * 1e-6;
}

double ClockLine::drift_ppm() const {
    const auto duration = static_cast<double>(last_.at_ns - first_.at_ns);
    return duration > 0 ? 1e6 * (last_.offset_ns - first_.offset_ns) / duration : 0;
}

double ClockLine::error_ns() const {
    return std::max(first_.error_ns, last_.error_ns);
}

}  // namespace moesaic::mpi
