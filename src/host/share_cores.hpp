// Which cores of a host each of its ranks uses.
#pragma once

#include "host/topology.hpp"

#include <vector>

namespace moesaic::host {

struct CoreShare {
    std::vector<int> cores;    ///< logical indices, at least one
    bool is_exclusive = true;  ///< no other rank has a core of them
};

/// The share of rank `node_rank` among the ranks of a host, where usable[r] holds the sorted logical indices of the
/// cores that rank r may use. Ranks that may use the same cores divide them evenly: whole NUMA nodes if their numbers
/// allow, else equal parts of NUMA nodes, else contiguous cores. If some ranks' cores overlap in part, all ranks divide
/// all.
[[nodiscard]] CoreShare share_cores(const std::vector<Core>& machine, const std::vector<std::vector<int>>& usable,
                                    int node_rank);

}  // namespace moesaic::host
