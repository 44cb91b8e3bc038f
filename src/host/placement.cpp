#include "host/placement.hpp"

#include "host/topology.hpp"

#include <omp.h>
#include <unistd.h>

#include <array>

namespace moesaic::host {

std::string host_name() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) {
        return "unknown host";
    }
    return name.data();
}

bool bind_threads(const Placement& placement) {
    const std::size_t units = placement.processing_units.size();
    const auto threads = static_cast<std::size_t>(placement.threads);
    omp_set_dynamic(0);
    omp_set_num_threads(placement.threads);
    if (placement.cores_shared || placement.emulated || threads > units) {
        return false;
    }
    const host::Topology topology;
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

}  // namespace moesaic::host
