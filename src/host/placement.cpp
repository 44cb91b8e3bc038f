#include "host/placement.hpp"

#include "host/limits.hpp"
#include "host/topology.hpp"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <utility>

namespace moesaic::host {

std::string host_name() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) {
        return "unknown host";
    }
    return name.data();
}

void update_memory(Placement& placement) {
    HostLimits limits = read_host_limits();
    placement.memory_bytes = limits.memory_bytes;
    placement.memory_available_bytes = limits.memory_available_bytes;
    if (limits.process_bytes < std::numeric_limits<std::uint64_t>::max()) {
        // The address space that threads still to come will take: for each a stack and an arena of the C library.
        constexpr std::uint64_t bytes_of_thread = std::uint64_t{72} << 20U;
        constexpr std::uint64_t helpers = 4;  // watchdog, trace, MPI
        const std::uint64_t threads = static_cast<std::uint64_t>(placement.threads) + helpers;
        limits.process_bytes -= std::min(limits.process_bytes, threads * bytes_of_thread);
    }
    placement.process_memory_bytes = limits.process_bytes;
    const std::uint64_t of_rank = limits.memory_available_bytes / static_cast<std::uint64_t>(placement.node_ranks);
    placement.memory_limit = std::move(limits.process_bytes < of_rank ? limits.process_limit : limits.memory_group);
}

ThreadPlaces places_for(const Placement& placement) {
    const auto units = static_cast<int>(placement.processing_units.size());
    if (placement.cores_shared || placement.emulated || placement.threads > units) {
        return ThreadPlaces::as_inherited;
    }
    return placement.threads == units || placement.bound_by_launcher ? ThreadPlaces::own_units
                                                                     : ThreadPlaces::rank_cores;
}

bool bind_threads(const Placement& placement) {
    const std::size_t units = placement.processing_units.size();
    const auto threads = static_cast<std::size_t>(placement.threads);
    const ThreadPlaces places = places_for(placement);
    omp_set_dynamic(0);
    omp_set_num_threads(placement.threads);
    if (places == ThreadPlaces::as_inherited) {
        return false;
    }
    const host::Topology topology;
    bool bound = true;
#pragma omp parallel reduction(&& : bound)
    {
        // Spread, so that fewer threads than cores still reach the memory of all NUMA nodes of the rank.
        const auto thread = static_cast<std::size_t>(omp_get_thread_num());
        const std::span<const int> all(placement.processing_units);
        const bool done = topology.bind_calling_thread(
            places == ThreadPlaces::own_units ? all.subspan(thread * units / threads, 1) : all);
        bound = done && omp_get_num_threads() == placement.threads;
    }
    return bound && places == ThreadPlaces::own_units;
}

}  // namespace moesaic::host
