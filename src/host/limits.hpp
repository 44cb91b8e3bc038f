// What the operating system grants this process: memory of the host and CPU time, less than that in a control group.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

namespace moesaic::host {

struct HostLimits {
    std::uint64_t memory_bytes = 0;
    std::uint64_t memory_available_bytes = 0;  ///< without swapping; includes caches that the system can drop
    std::string memory_group = {};             ///< the control group that leaves less than the host does, for messages
    /// That this process alone may still take, and what limits it, for messages.
    std::uint64_t process_bytes = std::numeric_limits<std::uint64_t>::max();
    std::string process_limit = {};
    double cpus = std::numeric_limits<double>::infinity();  ///< CPU seconds per second
};

/// Reads `root`/proc/meminfo, the control groups of the process, version 1 and 2, with all their ancestors, and its
/// resource limits. Files that are missing set no limit. Format: Linux "proc_meminfo(5)", "proc_pid_limits(5)",
/// "proc_pid_statm(5)" and "cgroup-v2".
[[nodiscard]] HostLimits read_host_limits(const std::filesystem::path& root = "/");

/// What users read when std::bad_alloc was thrown, with the limit that memory has here apart from the host's size.
[[nodiscard]] std::string out_of_memory_message();

}  // namespace moesaic::host
