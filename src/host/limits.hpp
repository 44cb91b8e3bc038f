// What the operating system grants this process: memory of the host and CPU time, less than that in a control group.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>

namespace moesaic::host {

struct HostLimits {
    std::uint64_t memory_bytes = 0;
    std::uint64_t memory_available_bytes = 0;  ///< without swapping; includes caches that the system can drop
    double cpus = std::numeric_limits<double>::infinity();  ///< CPU seconds per second
};

/// Reads `root`/proc/meminfo and the control groups of the process, version 1 and 2, with all their ancestors. Files
/// that are missing set no limit. Format: Linux "proc_meminfo(5)" and "cgroup-v2".
[[nodiscard]] HostLimits read_host_limits(const std::filesystem::path& root = "/");

}  // namespace moesaic::host
