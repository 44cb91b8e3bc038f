#include "mpi/placement.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>
#include <unistd.h>

#include "core/error.hpp"
#include "mpi/communicator.hpp"
#include "mpi/host_limits.hpp"
#include "mpi/share_cores.hpp"
#include "mpi/topology.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>

namespace moesaic::mpi {

using core::ExitCode;

namespace {

/// Index of the first processing unit of `core` in `usable`, or of its first one if the process may use none of them.
int pick_processing_unit(const Core& core, const std::vector<int>& usable) {
    const auto found =
        std::find_first_of(core.processing_units.begin(), core.processing_units.end(), usable.begin(), usable.end());
    return found != core.processing_units.end() ? *found : core.processing_units.front();
}

/// Sorted logical indices of the cores that have a processing unit in `usable`.
std::vector<int> usable_cores(const std::vector<Core>& cores, const std::vector<int>& usable) {
    std::vector<int> indices;
    for (std::size_t index = 0; index < cores.size(); ++index) {
        const std::vector<int>& units = cores[index].processing_units;
        if (std::find_first_of(units.begin(), units.end(), usable.begin(), usable.end()) != units.end()) {
            indices.push_back(static_cast<int>(index));
        }
    }
    return indices;
}

/// Collective. The lists of all ranks of `group`, in rank order, on all of them.
std::vector<std::vector<int>> exchange(const Communicator& group, const std::vector<int>& mine) {
    std::vector<std::vector<int>> lists;
    for (const std::string& line : group.all_gather(fmt::format("{}", fmt::join(mine, " ")))) {
        std::istringstream numbers(line);
        lists.emplace_back(std::istream_iterator<int>(numbers), std::istream_iterator<int>());
    }
    return lists;
}

void set_cores(Placement& placement, const Topology& topology, const CoreShare& share, const std::vector<int>& usable) {
    std::set<int> numa_nodes;
    for (const int index : share.cores) {
        const Core& core = topology.cores()[static_cast<std::size_t>(index)];
        numa_nodes.insert(core.numa_node);
        placement.processing_units.push_back(pick_processing_unit(core, usable));
        placement.units_per_core = std::max(placement.units_per_core, static_cast<int>(core.processing_units.size()));
    }
    placement.cores = share.cores;
    placement.numa_nodes.assign(numa_nodes.begin(), numa_nodes.end());
}

/// How many of the ranks whose usable cores are `of_ranks` get cores of the NUMA nodes `nodes`.
int ranks_on_nodes(const std::vector<Core>& machine, const std::vector<std::vector<int>>& of_ranks,
                   const std::vector<int>& nodes) {
    int ranks = 0;
    for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
        const std::vector<int> cores = share_cores(machine, of_ranks, static_cast<int>(rank)).cores;
        ranks += std::any_of(cores.begin(), cores.end(), [&](int core) {
            const int node = machine[static_cast<std::size_t>(core)].numa_node;
            return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
        });
    }
    return ranks;
}

/// CPU time of the control group in whole cores for each of the ranks that live in it.
int cores_paid_for(double cpus, int ranks, int cores) {
    const double each = std::clamp(cpus / ranks, 1.0, static_cast<double>(cores));
    return static_cast<int>(each);
}

}  // namespace

std::string host_name() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) {
        return "unknown host";
    }
    return name.data();
}

Placement place(const Communicator& world, int threads, const std::string& description) {
    std::optional<Topology> found;
    HostLimits limits;
    world.agree([&] {
        core::require(threads >= 0, ExitCode::usage,
                      "{} threads per rank are impossible (negative); use 0 for one thread per core", threads);
        found.emplace(description);
        limits = read_host_limits();
    });
    const Topology& topology = *found;

    const Communicator node = world.split_by_node();
    Placement placement;
    placement.host = host_name();
    placement.rank = world.rank();
    placement.node_rank = node.rank();
    placement.node_ranks = node.size();

    const std::vector<int> usable = topology.usable_processing_units();
    const std::vector<int> mine = usable_cores(topology.cores(), usable);
    placement.bound_by_launcher = mine.size() < topology.cores().size();
    const std::vector<std::vector<int>> of_ranks = exchange(node, mine);
    const CoreShare share = share_cores(topology.cores(), of_ranks, node.rank());
    set_cores(placement, topology, share, usable);
    placement.numa_ranks = ranks_on_nodes(topology.cores(), of_ranks, placement.numa_nodes);
    placement.emulated = !topology.is_this_host();

    placement.memory_bytes = limits.memory_bytes;
    placement.memory_available_bytes = limits.memory_available_bytes;
    const int cores = static_cast<int>(share.cores.size());
    const int paid = cores_paid_for(limits.cpus, node.size(), cores);
    // Under a CPU quota other processes have the same cores, so that a bound thread might wait while others are idle.
    placement.cores_shared = !share.is_exclusive || paid < cores;
    placement.threads = threads > 0 ? threads : paid;
    return placement;
}

bool bind_threads(const Placement& placement) {
    const std::size_t units = placement.processing_units.size();
    const auto threads = static_cast<std::size_t>(placement.threads);
    omp_set_dynamic(0);
    omp_set_num_threads(placement.threads);
    if (placement.cores_shared || placement.emulated || threads > units) {
        return false;
    }
    const Topology topology;
    bool bound = true;
#pragma omp parallel reduction(&& : bound)
    {
        // Spread, so that fewer threads than cores still reach the memory of all NUMA nodes of the rank.
        const auto thread = static_cast<std::size_t>(omp_get_thread_num());
        bound = omp_get_num_threads() == placement.threads &&
                topology.bind_calling_thread(placement.processing_units[thread * units / threads]);
    }
    return bound;
}

}  // namespace moesaic::mpi
