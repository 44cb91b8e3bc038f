#include "mpi/place.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>
#include <unistd.h>

#include "core/error.hpp"
#include "core/options.hpp"
#include "host/limits.hpp"
#include "host/share_cores.hpp"
#include "host/thread_environment.hpp"
#include "host/topology.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>

namespace moesaic::mpi {

using core::ExitCode;

namespace {

/// Far above what any machine has.
constexpr core::index_t most_threads = 1 << 12;

/// Index of the first processing unit of `core` in `usable`, or of its first one if the process may use none of them.
int pick_processing_unit(const host::Core& core, const std::vector<int>& usable) {
    const auto found =
        std::find_first_of(core.processing_units.begin(), core.processing_units.end(), usable.begin(), usable.end());
    return found != core.processing_units.end() ? *found : core.processing_units.front();
}

/// Sorted logical indices of the cores that have a processing unit in `usable`.
std::vector<int> usable_cores(const std::vector<host::Core>& cores, const std::vector<int>& usable) {
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

/// The cores of a machine as text, equal for equal machines.
std::string describe(const std::vector<host::Core>& cores) {
    std::string text;
    for (const host::Core& core : cores) {
        text += fmt::format("{}:{} ", core.numa_node, fmt::join(core.processing_units, ","));
    }
    return text;
}

/// Collective. Ranks of a host tell each other cores by their index: all must see the same ones.
void require_same_machine(const Communicator& world, const Communicator& node, const host::Topology& topology) {
    const std::string mine = describe(topology.cores());
    std::string of_first = mine;
    node.broadcast(of_first);
    world.agree([&] {
        core::require(
            mine == of_first, ExitCode::usage,
            "the topology of {} differs from the one that its first rank sees ({} cores here); give all ranks the "
            "same HWLOC_* variables and --topology",
            host::host_name(), topology.cores().size());
    });
}

int numa_nodes_of(const std::vector<host::Core>& machine) {
    std::set<int> nodes;
    for (const host::Core& core : machine) {
        nodes.insert(core.numa_node);
    }
    return static_cast<int>(nodes.size());
}

void set_cores(host::Placement& placement, const host::Topology& topology, const host::CoreShare& share,
               const std::vector<int>& usable) {
    std::set<int> numa_nodes;
    for (const int index : share.cores) {
        const host::Core& core = topology.cores()[static_cast<std::size_t>(index)];
        numa_nodes.insert(core.numa_node);
        placement.processing_units.push_back(pick_processing_unit(core, usable));
        placement.units_per_core = std::max(placement.units_per_core, static_cast<int>(core.processing_units.size()));
    }
    placement.cores = share.cores;
    placement.numa_nodes.assign(numa_nodes.begin(), numa_nodes.end());
}

/// How many of the ranks whose usable cores are `of_ranks` get cores of the NUMA nodes `nodes`.
int ranks_on_nodes(const std::vector<host::Core>& machine, const std::vector<std::vector<int>>& of_ranks,
                   const std::vector<int>& nodes) {
    int ranks = 0;
    for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
        const std::vector<int> cores = host::share_cores(machine, of_ranks, static_cast<int>(rank)).cores;
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

std::vector<host::RemarkLine> gather_remarks(const Communicator& world, const std::vector<host::Remark>& mine) {
    std::vector<std::vector<host::Remark>> of_ranks;
    for (const std::string& text : world.gather(host::to_text(mine))) {
        of_ranks.push_back(host::remarks_from(text));
    }
    return host::group_remarks(of_ranks);
}

void PlaceSettings::declare(core::OptionSet& set) {
    set.add_auto("parallel.threads", threads, most_threads,
                 "threads per rank; auto: one per physical core of the rank, at most OMP_NUM_THREADS")
        .known_as({"num_threads", "n_threads", "nthreads"});
}

void PlaceSettings::declare_topology(core::OptionSet& set) {
    set.add_path(
        "topology", topology,
        "plan for another host: a file of lstopo (.xml), or hwloc's synthetic form such as \"numa:2 core:8 pu:2\"");
}

host::Placement place(const Communicator& world, const PlaceSettings& settings) {
    std::optional<host::Topology> found;
    double cpus = 0;
    world.agree([&] {
        core::require(settings.threads >= 0, ExitCode::usage,
                      "{} threads per rank are impossible (negative); use 0 for one thread per core", settings.threads);
        found.emplace(settings.topology);
        cpus = host::read_host_limits().cpus;
    });
    const host::Topology& topology = *found;

    const Communicator node = world.split_by_node();
    require_same_machine(world, node, topology);
    host::Placement placement;
    placement.host = host::host_name();
    placement.rank = world.rank();
    placement.node_rank = node.rank();
    placement.node_ranks = node.size();

    const std::vector<int> usable = topology.usable_processing_units();
    const std::vector<int> mine = usable_cores(topology.cores(), usable);
    placement.bound_by_launcher = mine.size() < topology.cores().size();
    const std::vector<std::vector<int>> of_ranks = exchange(node, mine);
    const host::CoreShare share = host::share_cores(topology.cores(), of_ranks, node.rank());
    set_cores(placement, topology, share, usable);
    placement.numa_ranks = ranks_on_nodes(topology.cores(), of_ranks, placement.numa_nodes);
    placement.emulated = !topology.is_this_host();

    const int cores = static_cast<int>(share.cores.size());
    const int paid = cores_paid_for(cpus, node.size(), cores);
    // Under a CPU quota other processes have the same cores, so that a bound thread might wait while others are idle.
    placement.cores_shared = !share.is_exclusive || paid < cores;
    placement.host_numa_nodes = numa_nodes_of(topology.cores());
    host::ThreadEnvironment environment = host::read_thread_environment();
    if (placement.emulated) {
        environment.slurm_cpus_per_task = environment.slurm_cpus_on_node = 0;  // of this host
    }
    host::ThreadChoice choice = host::choose_threads(
        environment, {.wanted = static_cast<int>(settings.threads), .cores = paid, .node_ranks = placement.node_ranks});
    placement.threads = choice.threads;
    placement.thread_remarks = std::move(choice.remarks);
    host::update_memory(placement);
    return placement;
}

}  // namespace moesaic::mpi
