// Ranks of a host find out which cores each of them uses.
#pragma once

#include "host/placement.hpp"
#include "mpi/communicator.hpp"

#include <string>

namespace moesaic::mpi {

/// Collective over `world`. Uses the binding of the launcher (mpirun --bind-to, srun) if it gave every rank cores of
/// its own; otherwise shares the allowed cores of the host evenly among its ranks, whole NUMA nodes first. `threads` =
/// 0 means one thread per physical core of the rank (at least one), fewer under a CPU quota; more threads than cores
/// are allowed, unbound. A negative number is a usage error. `topology` describes another host, as for Topology.
[[nodiscard]] host::Placement place(const Communicator& world, int threads, const std::string& topology = "");

}  // namespace moesaic::mpi
