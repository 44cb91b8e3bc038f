// What the machine can do at best, measured beside what is compared with it.
#pragma once

#include "bench/samples.hpp"
#include "bench/team_memory.hpp"
#include "host/caches.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/peak.hpp"
#include "mpi/communicator.hpp"

#include <optional>
#include <vector>

namespace moesaic::train {
struct Runtime;
}

namespace moesaic::bench {

/// The level of the BF16 kernel that `kernels` has chosen.
[[nodiscard]] kernels::Isa bf16_level(const kernels::KernelSet& kernels);

/// Bytes that are too many for the last-level caches of a rank: three times as many, but 256 MiB at least and 4 GiB at
/// most, and a quarter of `memory_bytes`, which this rank may use. Collective: the least of all ranks.
[[nodiscard]] index_t bytes_beyond_caches(const mpi::Communicator& world, index_t cache_bytes, index_t memory_bytes);
/// Collective. The same of the caches and the memory of these ranks.
[[nodiscard]] index_t bytes_beyond_caches(const train::Runtime& runtime);

/// Bytes per thread that stay in each cache: half of the second level, and twice it in the third, if the third level
/// holds twice as much of all `threads` that run on a host. Nothing for a cache that is not there, or too small.
struct CacheWorkingSets {
    std::optional<index_t> second_level;
    std::optional<index_t> third_level;
};
[[nodiscard]] CacheWorkingSets working_sets(const std::vector<host::Cache>& caches, int units_per_core, int threads);

/// Measures the limits of a rank while all ranks do: multiply-adds in registers, and reading memory, by all threads.
class MachineProbe {
public:
    /// Collective. `loop` must outlive the object. Allocates `bytes`, shared out among the threads of now.
    MachineProbe(const mpi::Communicator& world, const kernels::PeakLoop& loop, index_t bytes);

    struct Limits {
        Sample gflops;
        Sample gigabytes_per_second;
    };
    /// Collective. Takes some ten milliseconds.
    [[nodiscard]] Limits measure();
    [[nodiscard]] kernels::Isa level() const noexcept { return loop_.isa; }

private:
    Sample read_next_part();

    mpi::Communicator world_;
    const kernels::PeakLoop& loop_;
    index_t calls_ = 1;  ///< of the loop in one measurement
    TeamMemory memory_;  ///< read array by array: by the time that a line comes again, all others have been read
    index_t next_part_ = 0;
};

}  // namespace moesaic::bench
