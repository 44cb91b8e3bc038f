// What else the machine did while it was measured, and what keeps measurements from repeating.
#pragma once

#include "host/placement.hpp"
#include "mpi/communicator.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::bench {

/// Counters of the system at one moment; zeros where it does not tell.
struct SystemCounters {
    double seconds = 0;          ///< since any moment
    double own_cpu = 0;          ///< seconds of this process
    double busy = 0;             ///< CPU seconds of all processes of the host
    double stolen = 0;           ///< CPU seconds that the hypervisor gave to others
    double load = 0;             ///< average of the last minute
    std::int64_t throttled = 0;  ///< thermal throttling of any core
};
/// `root` holds the folders proc and sys of Linux.
[[nodiscard]] SystemCounters read_counters(const std::filesystem::path& root = "/");

/// Lines about what disturbed a host with `processors` between two moments; `own_cpu` are the seconds of all ranks
/// there.
[[nodiscard]] std::vector<std::string> disturbances(const SystemCounters& before, const SystemCounters& after,
                                                    double own_cpu, double processors);

/// What makes times of this rank slower, or differ from run to run.
[[nodiscard]] std::vector<host::Remark> conditions(const host::Placement& placement, bool threads_bound,
                                                   const std::filesystem::path& root = "/");

/// Collective. Lines about all ranks and hosts, on rank 0. `before` was read when the run began.
[[nodiscard]] std::vector<std::string> noise_warnings(const mpi::Communicator& world, const host::Placement& placement,
                                                      bool threads_bound, const SystemCounters& before);

}  // namespace moesaic::bench
