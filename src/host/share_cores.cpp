#include "host/share_cores.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

namespace moesaic::host {

namespace {

using CoreList = std::vector<int>;

bool overlap(const CoreList& a, const CoreList& b) {
    CoreList common;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
    return !common.empty();
}

bool same_or_disjoint(const std::vector<CoreList>& usable) {
    return std::all_of(usable.begin(), usable.end(), [&](const CoreList& a) {
        return std::all_of(usable.begin(), usable.end(), [&](const CoreList& b) { return a == b || !overlap(a, b); });
    });
}

CoreList unite(const std::vector<CoreList>& lists) {
    std::set<int> all;
    for (const CoreList& list : lists) {
        all.insert(list.begin(), list.end());
    }
    return {all.begin(), all.end()};
}

/// Elements [part * n / parts, (part + 1) * n / parts) of n.
template <class T>
std::vector<T> slice(const std::vector<T>& all, std::size_t part, std::size_t parts) {
    const auto begin = all.begin();
    return {std::next(begin, static_cast<std::ptrdiff_t>(part * all.size() / parts)),
            std::next(begin, static_cast<std::ptrdiff_t>((part + 1) * all.size() / parts))};
}

std::vector<CoreList> by_numa_node(const std::vector<Core>& machine, const CoreList& cores) {
    std::map<int, CoreList> nodes;
    for (const int core : cores) {
        nodes[machine[static_cast<std::size_t>(core)].numa_node].push_back(core);
    }
    std::vector<CoreList> lists;
    lists.reserve(nodes.size());
    for (auto& [node, list] : nodes) {
        lists.push_back(std::move(list));
    }
    return lists;
}

CoreList divide(const std::vector<Core>& machine, const CoreList& cores, std::size_t part, std::size_t parts) {
    const std::vector<CoreList> nodes = by_numa_node(machine, cores);
    if (nodes.size() % parts == 0) {
        return unite(slice(nodes, part, parts));
    }
    const std::size_t parts_per_node = parts / nodes.size();
    const bool every_part_gets_a_core =
        std::all_of(nodes.begin(), nodes.end(), [&](const CoreList& node) { return node.size() >= parts_per_node; });
    if (parts % nodes.size() == 0 && every_part_gets_a_core) {
        return slice(nodes[part / parts_per_node], part % parts_per_node, parts_per_node);
    }
    return slice(cores, part, parts);
}

}  // namespace

CoreShare share_cores(const std::vector<Core>& machine, const std::vector<std::vector<int>>& usable, int node_rank) {
    const auto mine = static_cast<std::size_t>(node_rank);
    const bool in_groups = same_or_disjoint(usable);
    const CoreList cores = in_groups ? usable[mine] : unite(usable);
    std::size_t part = 0;
    std::size_t parts = 0;
    for (std::size_t rank = 0; rank < usable.size(); ++rank) {
        const bool divides_with_me = !in_groups || usable[rank] == cores;
        part += divides_with_me && rank < mine ? 1 : 0;
        parts += divides_with_me ? 1 : 0;
    }
    if (parts > cores.size()) {
        return {{cores[part % cores.size()]}, false};
    }
    return {divide(machine, cores, part, parts), true};
}

}  // namespace moesaic::host
