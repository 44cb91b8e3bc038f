#include "host/placement_report.hpp"

#include "core/text.hpp"
#include "core/units.hpp"
#include "host/topology.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::host {
namespace {

constexpr const char* columns = "{:<16} {:>5}  {:<6} {:<12} {:<12} {:<20} {}\n";
constexpr const char* advice = "start one rank per NUMA node (mpirun --map-by numa --bind-to numa)";

}  // namespace

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
    const std::string memory =
        fmt::format("{:.1f} of {:.1f}", static_cast<double>(p.memory_available_bytes) / core::gibibyte,
                    static_cast<double>(p.memory_bytes) / core::gibibyte);
    const char* const transport = p.rank == 0 ? "-" : p.host == root_host ? "shared memory" : "network";
    return fmt::format(columns, p.host, p.rank, core::ranges(p.numa_nodes), cores, threads, memory, transport);
}

std::vector<std::string> warnings(const Placement& p, const Binding& binding) {
    std::vector<std::string> lines;
    const auto warn = [&](const std::string& text) {
        lines.push_back(fmt::format("warning: rank {}: {}", p.rank, text));
    };
    if (p.numa_nodes.size() > 1) {
        warn(fmt::format("spans NUMA nodes {}; {}", core::ranges(p.numa_nodes), advice));
    }
    if (p.numa_ranks > 1) {
        warn(fmt::format("{} ranks of {} use NUMA node {}; {}", p.numa_ranks, p.host, core::ranges(p.numa_nodes),
                         advice));
    }
    if (p.cores_shared) {
        warn("others use its cores too (more ranks than cores, or a CPU quota); start fewer ranks per host");
    }
    if (p.threads > static_cast<int>(p.cores.size())) {
        warn(fmt::format("{} threads on {} cores{}; leave parallel.threads at auto", p.threads, p.cores.size(),
                         p.units_per_core > 1 ? " run on SMT siblings" : " wait for each other"));
    }
    if (!binding.threads_bound && !p.emulated) {
        warn("its threads are not bound to cores");
    }
    if (!std::includes(p.numa_nodes.begin(), p.numa_nodes.end(), binding.memory_nodes.begin(),
                       binding.memory_nodes.end())) {
        warn(fmt::format(
            "its memory is on NUMA nodes {}, its cores on {} (remote memory); free the memory of its nodes, "
            "and don't interleave (numactl)",
            core::ranges(binding.memory_nodes), core::ranges(p.numa_nodes)));
    }
    return lines;
}

}  // namespace moesaic::host
