#include "bench/environment.hpp"

#include "bench/onednn.hpp"
#include "core/build_info.hpp"
#include "core/text.hpp"
#include "host/caches.hpp"
#include "host/system_files.hpp"
#include "host/thread_environment.hpp"
#include "io/hdf5_version.hpp"
#include "kernels/isa.hpp"
#include "mpi/communicator.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

namespace moesaic::bench {
namespace {

using nlohmann::ordered_json;
using std::filesystem::path;

ordered_json or_null(const std::optional<std::string>& text) {
    return text ? ordered_json(*text) : ordered_json(nullptr);
}

ordered_json describe_caches(const path& root, int processing_unit) {
    ordered_json list = ordered_json::array();
    for (const host::Cache& cache : host::read_caches(processing_unit, root)) {
        list.push_back(
            {{"level", cache.level}, {"type", cache.type}, {"bytes", cache.bytes}, {"shared_by", cache.shared_by}});
    }
    return list;
}

ordered_json describe_cpu(const path& root, int processing_unit) {
    const path cpu = root / fmt::format("sys/devices/system/cpu/cpu{}", processing_unit);
    ordered_json levels = ordered_json::array();
    for (const kernels::IsaStatus& status : kernels::self_test()) {
        if (status.usable) {
            levels.push_back(kernels::name(status.isa));
        }
    }
    const auto of_unit = [&](std::string_view key) {
        return host::value_of_processor(root / "proc/cpuinfo", processing_unit, key);
    };
    const auto mhz = of_unit("cpu MHz");
    return {{"model", of_unit("model name").value_or("unknown")},
            {"microcode", of_unit("microcode").value_or("unknown")},
            {"isa", levels},
            {"logical", sysconf(_SC_NPROCESSORS_ONLN)},
            {"threads_per_core",
             std::max<std::int64_t>(
                 1, host::count_of_list(host::first_line(cpu / "topology/thread_siblings_list").value_or("0")))},
            {"mhz", mhz ? ordered_json(static_cast<double>(host::number_of(mhz->substr(0, mhz->find('.'))))) : nullptr},
            {"governor", or_null(host::first_line(cpu / "cpufreq/scaling_governor"))},
            {"caches", describe_caches(root, processing_unit)}};
}

/// The choice in brackets of "always [madvise] never".
ordered_json chosen_of(const std::optional<std::string>& choices) {
    if (!choices || choices->find('[') == std::string::npos) {
        return nullptr;
    }
    const std::size_t begin = choices->find('[') + 1;
    return choices->substr(begin, choices->find(']') - begin);
}

ordered_json describe_memory(const path& root, const host::Placement& placement) {
    ordered_json nodes = ordered_json::array();
    for (int node = 0;; ++node) {
        const path file = root / fmt::format("sys/devices/system/node/node{}/meminfo", node);
        const auto total = host::value_of(file, fmt::format("Node {} MemTotal", node), ':');
        if (!total) {
            break;
        }
        nodes.push_back({{"node", node}, {"bytes", host::number_of(total->substr(0, total->find(' '))) * 1024}});
    }
    return {
        {"bytes", placement.memory_bytes},
        {"available_bytes", placement.memory_available_bytes},
        {"numa", nodes},
        {"transparent_huge_pages", chosen_of(host::first_line(root / "sys/kernel/mm/transparent_hugepage/enabled"))}};
}

/// Interfaces of the host that are up, but for the loopback, and InfiniBand ports.
ordered_json describe_network(const path& root) {
    ordered_json interfaces = ordered_json::array();
    for (const path& folder : host::entries_of(root / "sys/class/net")) {
        const auto megabits = host::first_line(folder / "speed");  // -1 where the driver doesn't know
        if (host::first_line(folder / "operstate") == "up") {
            const std::int64_t speed = megabits ? host::number_of(*megabits) : 0;
            interfaces.push_back({{"name", folder.filename().string()},
                                  {"rate", speed > 0 ? ordered_json(fmt::format("{} Mb/s", speed)) : nullptr}});
        }
    }
    for (const path& device : host::entries_of(root / "sys/class/infiniband")) {
        for (const path& port : host::entries_of(device / "ports")) {
            interfaces.push_back({{"name", fmt::format("{}:{}", device.filename().string(), port.filename().string())},
                                  {"rate", or_null(host::first_line(port / "rate"))}});
        }
    }
    return interfaces;
}

/// Variables that change how programs run. Those in which launchers pass addresses and tokens are left out.
ordered_json describe_variables() {
    constexpr std::array prefixes = {"OMP_",           "SLURM_",       "OMPI_MCA_mpi_", "OMPI_MCA_btl",
                                     "OMPI_MCA_pml",   "OMPI_MCA_mtl", "OMPI_MCA_coll", "OMPI_MCA_hwloc",
                                     "OMPI_MCA_rmaps", "UCX_",         "FI_",           "I_MPI_",
                                     "MOESAIC"};
    std::map<std::string, std::string> found;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view text = *entry;
        const std::size_t equals = text.find('=');
        const bool wanted =
            std::any_of(prefixes.begin(), prefixes.end(), [&](const char* prefix) { return text.starts_with(prefix); });
        if (equals != std::string_view::npos && wanted && !text.starts_with("SLURM_JWT")) {
            found[std::string(text.substr(0, equals))] = text.substr(equals + 1);
        }
    }
    for (const std::string& entry : host::read_thread_environment().bindings) {
        const std::size_t equals = entry.find('=');
        found[entry.substr(0, equals)] = entry.substr(equals + 1);
    }
    ordered_json variables = ordered_json::object();
    for (const auto& [name, value] : found) {
        variables[name] = value;
    }
    return variables;
}

/// Leaves of nested objects by their keys, joined by dots.
void flatten(const ordered_json& object, const std::string& prefix, std::map<std::string, ordered_json>& leaves) {
    for (const auto& [key, value] : object.items()) {
        if (value.is_object()) {
            flatten(value, prefix + key + ".", leaves);
        } else {
            leaves[prefix + key] = value;
        }
    }
}

bool must_differ(const std::string& key) {
    static const std::set<std::string> keys = {"rank",
                                               "host",
                                               "cpu.mhz",
                                               "memory.available_bytes",
                                               "system.load",
                                               "placement.numa_nodes",
                                               "placement.cores",
                                               "variables.SLURM_PROCID",
                                               "variables.SLURM_LOCALID",
                                               "variables.SLURM_NODEID",
                                               "variables.SLURM_GTIDS",
                                               "variables.SLURM_TASK_PID",
                                               "variables.SLURM_TOPOLOGY_ADDR",
                                               "variables.SLURM_LAUNCH_NODE_IPADDR",
                                               "variables.SLURM_CPU_BIND",
                                               "variables.SLURM_CPU_BIND_LIST"};
    return keys.contains(key);
}

}  // namespace

ordered_json describe_program() {
    return {{"version", core::build_info::version},
            {"git_revision", core::build_info::git_revision},
            {"compiler", core::build_info::compiler},
            {"build_type", core::build_info::build_type},
            {"flags", core::build_info::flags},
            {"kernel_flags", kernels::compile_options()},
            {"mpi", mpi::Environment::library_version()},
            {"hdf5", io::hdf5_version()},
            {"onednn", onednn_version()}};
}

ordered_json describe_rank(const host::Placement& placement, bool threads_bound, const kernels::KernelSet& kernels,
                           const path& root) {
    utsname system{};
    uname(&system);
    const std::string load = host::first_line(root / "proc/loadavg").value_or("0");
    const int unit = placement.processing_units.empty() ? 0 : placement.processing_units.front();
    return {{"rank", placement.rank},
            {"host", placement.host},
            {"cpu", describe_cpu(root, unit)},
            {"memory", describe_memory(root, placement)},
            {"system",
             {{"kernel", fmt::format("{} {}", system.sysname, system.release)},
              {"operating_system", host::value_of(root / "etc/os-release", "PRETTY_NAME", '=').value_or("unknown")},
              {"load", std::strtod(load.c_str(), nullptr)}}},
            {"placement",
             {{"numa_nodes", placement.numa_nodes},
              {"cores", placement.cores},
              {"threads", placement.threads},
              {"bound", threads_bound},
              {"cores_shared", placement.cores_shared},
              {"bound_by_launcher", placement.bound_by_launcher}}},
            {"transport", mpi::Environment::transport()},
            {"network", describe_network(root)},
            {"kernels", {{"bf16", kernels.gemm_name<core::bf16>()}, {"fp32", kernels.gemm_name<float>()}}},
            {"variables", describe_variables()}};
}

std::vector<measure::Difference> differences(const std::vector<ordered_json>& ranks) {
    std::set<std::string> keys;
    std::vector<std::map<std::string, ordered_json>> leaves(ranks.size());
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        flatten(ranks[rank], "", leaves[rank]);
        for (const auto& [key, value] : leaves[rank]) {
            keys.insert(key);
        }
    }
    std::vector<measure::Difference> list;
    for (const std::string& key : keys) {
        std::map<std::string, std::vector<int>> ranks_with;  // by value
        for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
            const auto found = leaves[rank].find(key);
            ranks_with[found == leaves[rank].end() ? "null" : found->second.dump()].push_back(static_cast<int>(rank));
        }
        if (ranks_with.size() == 1 || must_differ(key)) {
            continue;
        }
        measure::Difference& difference = list.emplace_back(measure::Difference{key, {}});
        for (const auto& [value, holders] : ranks_with) {
            difference.values.push_back({ordered_json::parse(value), core::ranges(holders)});
        }
    }
    return list;
}

}  // namespace moesaic::bench
