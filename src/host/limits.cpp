#include "host/limits.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::host {

namespace fs = std::filesystem;

namespace {

/// Names of the files of a memory group, which differ between the versions of the interface.
struct MemoryFiles {
    const char* limit;
    const char* usage;
    const char* droppable;  ///< key of memory.stat: file cache that the kernel gives up first
};
constexpr MemoryFiles memory_v1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr MemoryFiles memory_v2{"memory.max", "memory.current", "inactive_file"};
/// Above it the kernel slows the group down and takes its memory back.
constexpr MemoryFiles slowed_v2{"memory.high", "memory.current", "inactive_file"};

/// First number of a file; none if the file is missing or says "max".
template <class T>
std::optional<T> read_number(const fs::path& file) {
    std::ifstream stream(file);
    T value{};
    return stream >> value ? std::optional<T>(value) : std::nullopt;
}

/// Number after `key` in a file of lines "key number ...".
std::optional<std::uint64_t> read_entry(const fs::path& file, std::string_view key) {
    std::ifstream stream(file);
    std::string line;
    while (std::getline(stream, line)) {
        std::istringstream words(line);
        std::string word;
        std::uint64_t value = 0;
        if (words >> word >> value && word == key) {
            return value;
        }
    }
    return std::nullopt;
}

void apply_memory(const fs::path& group, const MemoryFiles& files, HostLimits& limits) {
    const auto limit = read_number<std::uint64_t>(group / files.limit);
    if (!limit) {
        return;
    }
    limits.memory_bytes = std::min(limits.memory_bytes, *limit);
    const std::uint64_t usage = read_number<std::uint64_t>(group / files.usage).value_or(0);
    const std::uint64_t droppable = read_entry(group / "memory.stat", files.droppable).value_or(0);
    const std::uint64_t needed = usage - std::min(usage, droppable);
    const std::uint64_t available = *limit - std::min(*limit, needed);
    if (available < limits.memory_available_bytes) {
        limits.memory_available_bytes = available;
        limits.memory_group = fmt::format("the control group {} is limited to {:.2f} GiB", group.string(),
                                          static_cast<double>(*limit) / core::gibibyte);
    }
}

/// A resource limit of /proc/self/limits and what of it is used, in field `used` of /proc/self/statm.
struct ResourceLimit {
    std::string_view name;
    std::string_view called;
    int used;
};
constexpr std::array resource_limits = {
    ResourceLimit{"Max address space", "ulimit -v (RLIMIT_AS)", 0},
    ResourceLimit{"Max data size", "ulimit -d (RLIMIT_DATA)", 5},
};

void apply_resource_limits(const fs::path& root, HostLimits& limits) {
    std::ifstream stream(root / "proc/self/limits");
    for (std::string line; std::getline(stream, line);) {
        for (const ResourceLimit& limit : resource_limits) {
            std::uint64_t soft = 0;
            if (!line.starts_with(limit.name) || !(std::istringstream(line.substr(limit.name.size())) >> soft)) {
                continue;  // another one, or "unlimited"
            }
            std::ifstream statm(root / "proc/self/statm");
            std::uint64_t pages = 0;
            for (int field = 0; field <= limit.used && statm >> pages; ++field) {
            }
            const std::uint64_t used = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
            const std::uint64_t left = soft - std::min(soft, used);
            if (left < limits.process_bytes) {
                limits.process_bytes = left;
                limits.process_limit =
                    fmt::format("{} is {:.2f} GiB", limit.called, static_cast<double>(soft) / core::gibibyte);
            }
        }
    }
}

void apply_cpus(std::optional<double> quota, std::optional<double> period, HostLimits& limits) {
    if (quota && period && *quota > 0 && *period > 0) {
        limits.cpus = std::min(limits.cpus, *quota / *period);
    }
}

void apply_group_v1(const fs::path& group, std::string_view controller, HostLimits& limits) {
    if (controller == "memory") {
        apply_memory(group, memory_v1, limits);
    } else {
        apply_cpus(read_number<double>(group / "cpu.cfs_quota_us"), read_number<double>(group / "cpu.cfs_period_us"),
                   limits);
    }
}

void apply_group_v2(const fs::path& group, HostLimits& limits) {
    apply_memory(group, memory_v2, limits);
    apply_memory(group, slowed_v2, limits);
    std::ifstream stream(group / "cpu.max");
    double quota = 0;
    double period = 0;
    if (stream >> quota >> period) {
        apply_cpus(quota, period, limits);
    }
}

/// `base`/`path` and its ancestors down to `base`. In a container the path may be one of the host that is not visible;
/// the folders that do not exist then count for nothing, and `base` is the container's own group.
std::vector<fs::path> with_ancestors(const fs::path& base, std::string_view path) {
    fs::path relative = fs::path(path).relative_path().lexically_normal();
    if (!relative.empty() && *relative.begin() == "..") {
        relative.clear();
    }
    std::vector<fs::path> groups;
    for (; !relative.empty(); relative = relative.parent_path()) {
        groups.push_back(base / relative);
    }
    groups.push_back(base);
    return groups;
}

/// One line "ID:CONTROLLERS:PATH" of /proc/self/cgroup; version 2 has no controllers.
void apply_membership(const std::string& line, const fs::path& base, HostLimits& limits) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
        return;
    }
    const std::string_view path = std::string_view(line).substr(second + 1);
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) {
        for (const fs::path& group : with_ancestors(base, path)) {
            apply_group_v2(group, limits);
        }
        return;
    }
    for (const std::string& name : core::split(controllers)) {
        if (name == "memory" || name == "cpu") {
            for (const fs::path& group : with_ancestors(base / name, path)) {
                apply_group_v1(group, name, limits);
            }
        }
    }
}

}  // namespace

HostLimits read_host_limits(const fs::path& root) {
    constexpr std::uint64_t kibibyte = 1024;
    const fs::path meminfo = root / "proc/meminfo";
    HostLimits limits;
    limits.memory_bytes = read_entry(meminfo, "MemTotal:").value_or(0) * kibibyte;
    limits.memory_available_bytes = read_entry(meminfo, "MemAvailable:").value_or(0) * kibibyte;
    std::ifstream memberships(root / "proc/self/cgroup");
    std::string line;
    while (std::getline(memberships, line)) {
        apply_membership(line, root / "sys/fs/cgroup", limits);
    }
    apply_resource_limits(root, limits);
    return limits;
}

std::string out_of_memory_message() {
    const HostLimits limits = read_host_limits();
    const std::string limit =
        limits.process_bytes < limits.memory_available_bytes ? limits.process_limit : limits.memory_group;
    std::string message = core::out_of_memory_message;
    return limit.empty() ? message : message.insert(message.find(')'), ": " + limit);
}

}  // namespace moesaic::host
