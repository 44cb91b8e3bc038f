// Ranks of a host find out which cores each of them uses.
#pragma once

#include "core/matrix.hpp"
#include "host/placement.hpp"
#include "mpi/communicator.hpp"

#include <string>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::mpi {

struct PlaceSettings {
    core::index_t threads = 0;  ///< per rank; 0: one per physical core of the rank (at least one), fewer under a CPU
                                ///< quota or if the environment says so (host::choose_threads)
    std::string topology = {};  ///< of another host, as for host::Topology; empty: this one

    void declare(core::OptionSet& set);
    void declare_topology(core::OptionSet& set);
};

/// Collective over `world`. Uses the binding of the launcher (mpirun --bind-to, srun) if it gave every rank cores of
/// its own; otherwise shares the allowed cores of the host evenly among its ranks, whole NUMA nodes first. More
/// threads than cores are allowed, unbound. A negative number of them is a usage error, and so are ranks of a host that
/// see different topologies.
[[nodiscard]] host::Placement place(const Communicator& world, const PlaceSettings& settings = {});

/// Collective. The remarks of all ranks as lines, grouped, on rank 0; nothing elsewhere.
[[nodiscard]] std::vector<host::RemarkLine> gather_remarks(const Communicator& world,
                                                           const std::vector<host::Remark>& mine);

}  // namespace moesaic::mpi
