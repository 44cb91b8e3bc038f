// Time of work that all ranks do at once.
#pragma once

#include "core/trace.hpp"
#include "mpi/communicator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::mpi {

/// One measurement: of the slowest rank, which counts, and of this one.
struct Sample {
    double slowest = 0;
    double mine = 0;

    [[nodiscard]] Sample operator+(const Sample& other) const { return {slowest + other.slowest, mine + other.mine}; }
    [[nodiscard]] Sample operator*(double factor) const { return {slowest * factor, mine * factor}; }
    /// What work of this size comes to per unit of this time.
    [[nodiscard]] Sample rate_of(double work) const { return {work / slowest, work / mine}; }
};

/// Collective. Seconds that ranks need for `work`, which all of them start together.
template <class Work>
[[nodiscard]] Sample seconds_of(const mpi::Communicator& world, Work&& work) {
    world.barrier();
    const std::int64_t begin = core::trace::now_ns();
    work();
    const double mine = static_cast<double>(core::trace::now_ns() - begin) * 1e-9;
    return {world.max(mine), mine};
}

/// Collective. How often to repeat `work` inside one measurement, so that it lasts about `seconds`: clock and barrier
/// then cost nothing. Runs the work at least twice, which warms it up.
template <class Work>
[[nodiscard]] index_t repeats_for(const mpi::Communicator& world, double seconds, Work&& work) {
    work();
    index_t repeats = 1;
    for (;;) {
        double measured = std::numeric_limits<double>::infinity();
        for (int attempt = 0; attempt < 3; ++attempt) {  // one alone may have been interrupted
            const auto run_all = [&] {
                for (index_t i = 0; i < repeats; ++i) {
                    work();
                }
            };
            measured = std::min(measured, seconds_of(world, run_all).slowest);
        }
        if (measured >= seconds / 4) {  // long enough to extrapolate from
            return std::max<index_t>(
                1, static_cast<index_t>(std::lround(static_cast<double>(repeats) * seconds / measured)));
        }
        repeats *= 4;
    }
}

}  // namespace moesaic::mpi
