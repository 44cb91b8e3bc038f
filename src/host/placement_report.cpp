#include "host/placement_report.hpp"

#include "core/counted.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "host/core_load.hpp"
#include "host/topology.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace moesaic::host {
namespace {

constexpr const char* columns = "{:<16} {:>5}  {:<6} {:<12} {:<12} {:<20} {}\n";

/// Load that the system itself makes, and what a tenth of a second can't tell from it.
constexpr double tolerated_load = 0.5;

}  // namespace

double measure_foreign_load(const Placement& placement) {
    using Clock = std::chrono::steady_clock;
    if (placement.emulated) {
        return 0;
    }
    const Clock::time_point begin = Clock::now();
    const BusyTimes before = read_busy_times();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const BusyTimes after = read_busy_times();
    return busy_units(before, after, std::chrono::duration<double>(Clock::now() - begin).count(),
                      placement.processing_units);
}

std::vector<int> find_first_touched_nodes(const Placement& placement) {
    if (placement.emulated) {
        return {};
    }
    constexpr std::size_t bytes = std::size_t{16} << 20U;
    constexpr std::size_t page = 4096;
    const std::unique_ptr<char[]> memory(new char[bytes]);  // untouched as yet
#pragma omp parallel for
    for (std::size_t offset = 0; offset < bytes; offset += page) {
        memory[offset] = 1;
    }
    return Topology().numa_nodes_of(memory.get(), bytes);
}

std::string map_title() {
    return fmt::format(columns, "host", "rank", "NUMA", "cores", "threads", "GiB free of all", "to rank 0");
}

std::string map_line(const Placement& p, const Binding& binding, const std::string& root_host) {
    const std::string cores = core::ranges(p.cores) + (p.cores_shared ? " shared" : "");
    const std::string threads = fmt::format("{} {}", p.threads, binding.threads_bound ? "bound" : "unbound");
    const std::uint64_t available = std::min(p.memory_available_bytes, p.process_memory_bytes);
    const std::string memory = fmt::format("{:.1f} of {:.1f}", static_cast<double>(available) / core::gibibyte,
                                           static_cast<double>(p.memory_bytes) / core::gibibyte);
    const char* const transport = p.rank == 0 ? "-" : p.host == root_host ? "shared memory" : "network";
    return fmt::format(columns, p.host, p.rank, core::ranges(p.numa_nodes), cores, threads, memory, transport);
}

std::vector<Remark> remarks(const Placement& p, const Binding& binding) {
    std::vector<Remark> list = p.thread_remarks;
    const auto add = [&](Severity severity, std::string problem, std::string detail, std::string advice) {
        list.push_back({severity, std::move(problem), std::move(detail), std::move(advice)});
    };
    const std::string by_numa_node = fmt::format("start one rank per NUMA node, {} on {}", p.host_numa_nodes, p.host);
    if (p.numa_nodes.size() > 1) {
        add(Severity::warning, "it spans several NUMA nodes", core::ranges(p.numa_nodes), by_numa_node);
    }
    if (p.numa_ranks > 1) {
        add(Severity::warning, "several ranks use one NUMA node",
            fmt::format("{} ranks of {} on node {}", p.numa_ranks, p.host, core::ranges(p.numa_nodes)), by_numa_node);
    }
    if (p.cores_shared) {
        add(Severity::warning, "others use its cores too (more ranks than cores, or a CPU quota)", "",
            "start fewer ranks per host");
    }
    if (p.threads > static_cast<int>(p.cores.size())) {
        add(Severity::warning, p.units_per_core > 1 ? "threads run on SMT siblings" : "threads wait for each other",
            fmt::format("{} on {}", core::counted(p.threads, "thread"), core::counted(p.cores.size(), "core")),
            "leave parallel.threads at auto");
    }
    if (!p.memory_limit.empty()) {
        add(Severity::note, "its memory is limited", p.memory_limit, "");
    }
    const double idle_cores = static_cast<double>(p.cores.size()) - binding.foreign_load;
    if (binding.foreign_load > tolerated_load && p.threads > idle_cores + tolerated_load) {
        add(Severity::warning, "other processes use its cores",
            fmt::format("{:.1f} of {} busy", binding.foreign_load, core::counted(p.cores.size(), "core")),
            "stop them, or ask the scheduler for whole hosts (sbatch --exclusive)");
    }
    const ThreadPlaces places = places_for(p);
    if (places == ThreadPlaces::rank_cores) {
        add(Severity::note, "its threads move among its cores, which no launcher chose",
            fmt::format("{} on {}", core::counted(p.threads, "thread"), core::counted(p.cores.size(), "core")),
            "to bind them let mpirun or srun bind the rank");
    } else if (places == ThreadPlaces::own_units && !binding.threads_bound) {
        add(Severity::warning, "its threads could not be bound to cores", "", "");
    }
    if (!std::includes(p.numa_nodes.begin(), p.numa_nodes.end(), binding.memory_nodes.begin(),
                       binding.memory_nodes.end())) {
        add(Severity::warning, "its memory is on other NUMA nodes than its cores (remote memory)",
            fmt::format("memory on {}, cores on {}", core::ranges(binding.memory_nodes), core::ranges(p.numa_nodes)),
            "free the memory of its nodes, and don't interleave (numactl)");
    }
    return list;
}

}  // namespace moesaic::host
