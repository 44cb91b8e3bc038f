// Where the ranks run, for people: a map, and what costs speed there.
#pragma once

#include "host/placement.hpp"

#include <string>
#include <vector>

namespace moesaic::host {

/// What only a rank that runs can know of itself.
struct Binding {
    bool threads_bound = false;
    double foreign_load = 0;        ///< of the rank's cores, so many were busy with other processes
    std::vector<int> memory_nodes;  ///< NUMA nodes of memory that the threads touched first; empty: unknown
};

/// How many of the rank's cores other processes keep busy, watched for a tenth of a second in which the ranks of the
/// host must do nothing.
[[nodiscard]] double measure_foreign_load(const Placement& placement);

/// Touches some memory with the threads of this rank, as training does, and asks where it is.
[[nodiscard]] std::vector<int> find_first_touched_nodes(const Placement& placement);

/// Column titles of the map.
[[nodiscard]] std::string map_title();
/// The line of one rank: host, rank, NUMA nodes, cores, threads, memory, and how it reaches rank 0 on `root_host`.
[[nodiscard]] std::string map_line(const Placement& placement, const Binding& binding, const std::string& root_host);
/// What costs this rank speed, and how its threads came about.
[[nodiscard]] std::vector<Remark> remarks(const Placement& placement, const Binding& binding);

}  // namespace moesaic::host
