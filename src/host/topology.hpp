// The cores of this host and the binding of threads to them: everything that needs hwloc.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct hwloc_topology;

namespace moesaic::host {

/// A physical core of the host.
struct Core {
    int numa_node = 0;                  ///< logical index of the closest NUMA node
    std::vector<int> processing_units;  ///< operating-system indices of its hardware threads, at least one
};

/// The host as hwloc sees it, or another one, on which nothing can be bound.
class Topology {
public:
    /// `description` of another host: a file that `lstopo FILE.xml` wrote, or hwloc's synthetic form such as
    /// "numa:2 core:8 pu:2"; empty: this host, or what HWLOC_SYNTHETIC says. Throws a usage error if hwloc can't read
    /// it.
    explicit Topology(const std::string& description = "");

    /// All cores of the host by logical index, those that this process must not use included: thus processes of one
    /// host mean the same core by the same index.
    [[nodiscard]] const std::vector<Core>& cores() const noexcept { return cores_; }
    /// Sorted operating-system indices of the processing units to which this process is bound and that it may use.
    [[nodiscard]] std::vector<int> usable_processing_units() const;
    /// False for a description of another host.
    [[nodiscard]] bool is_this_host() const noexcept;
    /// Logical indices of the NUMA nodes that hold pages of [data, data + bytes); empty where the system doesn't tell.
    [[nodiscard]] std::vector<int> numa_nodes_of(const void* data, std::size_t bytes) const;
    /// Returns whether the calling thread is bound to these processing units now.
    [[nodiscard]] bool bind_calling_thread(std::span<const int> processing_units) const noexcept;

private:
    struct Destroy {
        void operator()(hwloc_topology* topology) const noexcept;
    };
    std::unique_ptr<hwloc_topology, Destroy> topology_;
    std::vector<Core> cores_;
};

}  // namespace moesaic::host
