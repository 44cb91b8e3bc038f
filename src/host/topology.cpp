#include "host/topology.hpp"

#include <hwloc.h>

#include "core/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace moesaic::host {

using core::ExitCode;

namespace {

struct FreeBitmap {
    void operator()(hwloc_bitmap_s* bitmap) const noexcept { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

Bitmap make_bitmap() {
    Bitmap bitmap(hwloc_bitmap_alloc());
    if (bitmap == nullptr) {
        throw std::bad_alloc();
    }
    return bitmap;
}

std::vector<int> indices(hwloc_const_bitmap_t bitmap) {
    std::vector<int> values;
    for (int index = hwloc_bitmap_first(bitmap); index >= 0; index = hwloc_bitmap_next(bitmap, index)) {
        values.push_back(index);
    }
    return values;
}

/// The first node in logical order, because memory that shares a node's cores (such as HBM) comes after the main
/// memory.
int closest_numa_node(hwloc_topology* topology, hwloc_const_bitmap_t cpus) {
    const int nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    for (int index = 0; index < nodes; ++index) {
        const hwloc_obj* node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, static_cast<unsigned>(index));
        if (hwloc_bitmap_intersects(node->cpuset, cpus) != 0) {
            return index;
        }
    }
    return 0;
}

std::vector<Core> find_cores(hwloc_topology* topology) {
    // Some virtual machines hide which processing units share a core.
    const bool has_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;
    const hwloc_obj_type_t type = has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    std::vector<Core> cores;
    for (hwloc_obj* object = hwloc_get_next_obj_by_type(topology, type, nullptr); object != nullptr;
         object = hwloc_get_next_obj_by_type(topology, type, object)) {
        cores.push_back({closest_numa_node(topology, object->cpuset), indices(object->cpuset)});
    }
    return cores;
}

}  // namespace

void Topology::Destroy::operator()(hwloc_topology* topology) const noexcept {
    hwloc_topology_destroy(topology);
}

Topology::Topology(const std::string& description) {
    hwloc_topology* topology = nullptr;
    if (hwloc_topology_init(&topology) != 0) {
        throw std::bad_alloc();
    }
    topology_.reset(topology);
    const auto describe = description.ends_with(".xml") ? hwloc_topology_set_xml : hwloc_topology_set_synthetic;
    core::require(description.empty() || describe(topology, description.c_str()) == 0, ExitCode::usage,
                  "topology {} can't be read (hwloc: {}); give a file that `lstopo FILE.xml` wrote, or a synthetic "
                  "description such as \"numa:2 core:8 pu:2\"",
                  description, std::strerror(errno));
    core::require(hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) == 0 &&
                      hwloc_topology_load(topology) == 0,
                  ExitCode::runtime_failure,
                  "the topology of this host cannot be read (hwloc: {}); check /sys and HWLOC_* variables",
                  std::strerror(errno));
    cores_ = find_cores(topology);
    core::require(!cores_.empty(), ExitCode::runtime_failure,
                  "hwloc finds no core on this host (an emulated topology without cores?); unset HWLOC_* variables");
}

std::vector<int> Topology::usable_processing_units() const {
    const hwloc_const_bitmap_t allowed = hwloc_topology_get_allowed_cpuset(topology_.get());
    const Bitmap usable = make_bitmap();
    const bool is_known = hwloc_get_cpubind(topology_.get(), usable.get(), HWLOC_CPUBIND_PROCESS) == 0;
    // A description of another machine (HWLOC_XMLFILE) may have nothing in common with the binding of this process.
    const bool has_units =
        hwloc_bitmap_and(usable.get(), usable.get(), allowed) == 0 && hwloc_bitmap_iszero(usable.get()) == 0;
    return indices(is_known && has_units ? usable.get() : allowed);
}

bool Topology::is_this_host() const noexcept {
    return hwloc_topology_is_thissystem(topology_.get()) != 0;
}

std::vector<int> Topology::numa_nodes_of(const void* data, std::size_t bytes) const {
    const Bitmap nodes = make_bitmap();
    std::vector<int> logical;
    if (!is_this_host() ||
        hwloc_get_area_memlocation(topology_.get(), data, bytes, nodes.get(), HWLOC_MEMBIND_BYNODESET) != 0) {
        return logical;
    }
    for (const int index : indices(nodes.get())) {
        const hwloc_obj* node = hwloc_get_numanode_obj_by_os_index(topology_.get(), static_cast<unsigned>(index));
        if (node != nullptr) {
            logical.push_back(static_cast<int>(node->logical_index));
        }
    }
    std::sort(logical.begin(), logical.end());
    return logical;
}

bool Topology::bind_calling_thread(std::span<const int> processing_units) const noexcept {
    if (!is_this_host()) {
        return false;  // hwloc would report success
    }
    const Bitmap target(hwloc_bitmap_alloc());
    const auto add = [&](int unit) { return hwloc_bitmap_set(target.get(), static_cast<unsigned>(unit)) == 0; };
    return target != nullptr && std::all_of(processing_units.begin(), processing_units.end(), add) &&
           hwloc_set_cpubind(topology_.get(), target.get(), HWLOC_CPUBIND_THREAD) == 0;
}

}  // namespace moesaic::host
