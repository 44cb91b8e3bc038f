// Time of work that all ranks do at once.
#pragma once

#include "core/trace.hpp"
#include "mpi/communicator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::bench {

using core::index_t;

/// Collective. Seconds that the slowest rank needs for `work`, which all ranks start together.
template <class Work>
[[nodiscard]] double seconds_of_slowest(const mpi::Communicator& world, Work&& work) {
    world.barrier();
    const std::int64_t begin = core::trace::now_ns();
    work();
    return world.max(static_cast<double>(core::trace::now_ns() - begin) * 1e-9);
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
            measured = std::min(measured, seconds_of_slowest(world, [&] {
                                    for (index_t i = 0; i < repeats; ++i) {
                                        work();
                                    }
                                }));
        }
        if (measured >= seconds / 4) {  // long enough to extrapolate from
            return std::max<index_t>(
                1, static_cast<index_t>(std::lround(static_cast<double>(repeats) * seconds / measured)));
        }
        repeats *= 4;
    }
}

}  // namespace moesaic::bench
