// What the machine can do at best, measured in the same run as what is compared with it.
#pragma once

#include "bench/statistics.hpp"
#include "kernels/gemm.hpp"
#include "mpi/communicator.hpp"

#include <string>
#include <string_view>

namespace moesaic::bench {

/// Multiply-add rate from registers, of the slowest rank.
struct Peak {
    kernels::Isa isa = kernels::Isa::portable;
    Summary one_thread;   ///< GFLOP/s
    Summary all_threads;  ///< GFLOP/s of a rank
};

/// The level of the BF16 kernel that `kernels` has chosen.
[[nodiscard]] kernels::Isa bf16_level(const kernels::KernelSet& kernels);

/// Collective.
[[nodiscard]] Peak measure_peak(const mpi::Communicator& world, kernels::Isa isa);

/// Collective. GB/s that the threads of the slowest rank read from memory while all ranks read, with the loads of the
/// level. `memory_bytes`: what a rank may use for it.
[[nodiscard]] Summary measure_dram_read(const mpi::Communicator& world, kernels::Isa isa, index_t memory_bytes);

/// Bytes of the last-level cache as the operating system tells, a guess where it does not.
[[nodiscard]] index_t last_level_cache_bytes();

[[nodiscard]] std::string cpu_model();

}  // namespace moesaic::bench
