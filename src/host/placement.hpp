// Where a rank runs: its host, NUMA node and cores; threads are bound to those cores.
#pragma once

#include "host/remarks.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace moesaic::host {

/// What one rank found out about itself.
struct Placement {
    std::string host;
    int rank = 0;
    int node_rank = 0;                  ///< rank among the ranks of this host
    int node_ranks = 1;                 ///< ranks on this host
    std::vector<int> numa_nodes;        ///< logical indices of the NUMA nodes of `cores`
    std::vector<int> cores;             ///< logical indices of the physical cores that this rank uses
    std::vector<int> processing_units;  ///< one operating-system index per core of `cores`, where its thread is bound
    int threads = 1;                    ///< OpenMP threads of this rank
    bool bound_by_launcher = false;     ///< the process came with fewer cores than the machine has
    std::uint64_t memory_bytes = 0;     ///< memory of the host, from the operating system, or its control group's limit
    std::uint64_t memory_available_bytes = 0;  ///< shared by all ranks of the host, like `memory_bytes`
    /// That this rank alone may still take.
    std::uint64_t process_memory_bytes = std::numeric_limits<std::uint64_t>::max();
    std::string memory_limit = {};  ///< why memory is less than that of the host, for messages
    int numa_ranks = 1;             ///< ranks of this host that use one of `numa_nodes`
    int units_per_core = 1;         ///< most processing units of a core of `cores`: 2 and more with SMT
    bool emulated = false;          ///< on a description of another host
    bool cores_shared = false;      ///< others use the cores too: more ranks than cores, or a CPU quota below the cores
    int host_numa_nodes = 1;        ///< NUMA nodes of the host that have cores
    std::vector<Remark> thread_remarks = {};  ///< how the number of threads came about
};

/// Where the threads of a rank may run.
enum class ThreadPlaces : std::uint8_t {
    own_units,    ///< each on a processing unit of its own
    rank_cores,   ///< all on all cores of the rank
    as_inherited  ///< wherever the process may
};

/// Name of this host, as gethostname knows it.
[[nodiscard]] std::string host_name();

/// Reads what memory this rank has now.
void update_memory(Placement& placement);

/// The places that threads of this placement get. With fewer threads than cores that no launcher chose, another job on
/// the host may take the same cores: threads then move among all cores of the rank, where the system keeps them apart.
/// With more threads than cores, or cores shared with others, they stay where they are.
[[nodiscard]] ThreadPlaces places_for(const Placement& placement);

/// Starts the OpenMP team of this process with `placement.threads` threads and binds them to `places_for(placement)`.
/// Returns whether each has a processing unit of its own. Threads that the calling thread starts later inherit its
/// place.
bool bind_threads(const Placement& placement);

}  // namespace moesaic::host
