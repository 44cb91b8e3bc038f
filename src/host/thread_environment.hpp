// What the environment of a job says about threads and their places: variables of OpenMP and of Slurm.
#pragma once

#include "host/remarks.hpp"

#include <string>
#include <vector>

namespace moesaic::host {

struct ThreadEnvironment {
    /// Variables that bind threads, "OMP_PROC_BIND=close". They were taken away from the OpenMP library.
    std::vector<std::string> bindings = {};
    int openmp_threads = 0;       ///< the first number of OMP_NUM_THREADS; 0: none
    int openmp_limit = 0;         ///< OMP_THREAD_LIMIT; 0: none
    int slurm_cpus_per_task = 0;  ///< SLURM_CPUS_PER_TASK; 0: none
    int slurm_cpus_on_node = 0;   ///< SLURM_CPUS_ON_NODE, those of all ranks of the job on this host; 0: none
};

/// That of this process.
[[nodiscard]] ThreadEnvironment read_thread_environment();

/// What a rank could use.
struct ThreadRequest {
    int wanted = 0;      ///< parallel.threads; 0: auto
    int cores = 1;       ///< of this rank, or fewer under a CPU quota
    int node_ranks = 1;  ///< ranks on this host
};

struct ThreadChoice {
    int threads = 1;
    std::vector<Remark> remarks;
};

/// Threads of this rank: as many as wanted; by default one per core, but not more than OMP_NUM_THREADS and than the
/// CPUs that Slurm granted. OMP_THREAD_LIMIT holds in any case. Remarks say what of the environment was not followed,
/// and what it costs.
[[nodiscard]] ThreadChoice choose_threads(const ThreadEnvironment& environment, const ThreadRequest& request);

}  // namespace moesaic::host
