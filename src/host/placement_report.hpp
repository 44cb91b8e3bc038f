// Where the ranks run, for people: a map, and what costs speed there.
#pragma once

#include "host/placement.hpp"

#include <string>
#include <vector>

namespace moesaic::host {

/// What only a rank that runs can know of itself.
struct Binding {
    bool threads_bound = false;
    std::vector<int> memory_nodes;  ///< NUMA nodes of memory that the threads touched first; empty: unknown
};

/// Touches some memory with the threads of this rank, as training does, and asks where it is.
[[nodiscard]] std::vector<int> find_first_touched_nodes(const Placement& placement);

/// Column titles of the map.
[[nodiscard]] std::string map_title();
/// The line of one rank: host, rank, NUMA nodes, cores, threads, memory, and how it reaches rank 0 on `root_host`.
[[nodiscard]] std::string map_line(const Placement& placement, const Binding& binding, const std::string& root_host);
/// Lines "warning: rank R: ..." about what costs speed.
[[nodiscard]] std::vector<std::string> warnings(const Placement& placement, const Binding& binding);

}  // namespace moesaic::host
