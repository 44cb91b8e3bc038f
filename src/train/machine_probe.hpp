// What the machine can do at best, measured while nothing else runs or beside what is compared with it.
#pragma once

#include "kernels/kernel_set.hpp"
#include "kernels/peak.hpp"
#include "mpi/timing.hpp"
#include "train/team_memory.hpp"

namespace moesaic::train {

struct Ranks;

/// The level of the BF16 kernel that `kernels` has chosen.
[[nodiscard]] kernels::Isa bf16_level(const kernels::KernelSet& kernels);

/// Bytes that are too many for the last-level caches of a rank: three times as many, but 256 MiB at least and 4 GiB at
/// most, and a quarter of `memory_bytes`, which this rank may use. Collective: the least of all ranks.
[[nodiscard]] index_t bytes_beyond_caches(const mpi::Communicator& world, index_t cache_bytes, index_t memory_bytes);
/// Collective. The same of the caches and the memory of these ranks.
[[nodiscard]] index_t bytes_beyond_caches(const Ranks& ranks);

/// Measures the limits of a rank while all ranks do: multiply-adds in registers, and reading memory, by all threads.
class MachineProbe {
public:
    /// Collective. `loop` must outlive the object. Allocates `bytes`, shared out among the threads of now.
    MachineProbe(const mpi::Communicator& world, const kernels::PeakLoop& loop, index_t bytes);

    struct Limits {
        mpi::Sample gflops;
        mpi::Sample gigabytes_per_second;
    };
    /// Collective. Takes some ten milliseconds.
    [[nodiscard]] Limits measure();
    [[nodiscard]] kernels::Isa level() const noexcept { return loop_.isa; }

private:
    mpi::Sample read_next_part();

    mpi::Communicator world_;
    const kernels::PeakLoop& loop_;
    index_t calls_ = 1;  ///< of the loop in one measurement
    TeamMemory memory_;  ///< read array by array: by the time that a line comes again, all others have been read
    index_t next_part_ = 0;
};

}  // namespace moesaic::train
