#include "host/placement.hpp"

#include "host/topology.hpp"

#include <omp.h>
#include <unistd.h>

#include <array>
#include <span>

namespace moesaic::host {

std::string host_name() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) {
        return "unknown host";
    }
    return name.data();
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
