// What the machine can do at best, measured beside what is compared with it.
#pragma once

#include "bench/benchmark.hpp"
#include "kernels/gemm.hpp"
#include "kernels/peak.hpp"
#include "mpi/communicator.hpp"

#include <memory>

namespace moesaic::bench {

/// The level of the BF16 kernel that `kernels` has chosen.
[[nodiscard]] kernels::Isa bf16_level(const kernels::KernelSet& kernels);

/// Bytes of the last-level cache as the operating system tells, a guess where it does not.
[[nodiscard]] index_t last_level_cache_bytes();

/// Measures the limits of a rank while all ranks do: multiply-adds in registers, and reading memory, by all threads.
class MachineProbe {
public:
    /// Collective. `memory_bytes`: what this rank may use. Allocates three times the last-level cache, but 256 MiB at
    /// least and 4 GiB at most, and a quarter of the memory.
    MachineProbe(const mpi::Communicator& world, kernels::Isa level, index_t memory_bytes);
    ~MachineProbe();

    struct Sample {
        double gflops = 0;                ///< of the slowest rank
        double gigabytes_per_second = 0;  ///< of the slowest rank
    };
    /// Collective. Takes some ten milliseconds.
    [[nodiscard]] Sample measure();
    [[nodiscard]] kernels::Isa level() const noexcept;

private:
    class Buffer;
    double read_next_part();

    mpi::Communicator world_;
    const kernels::PeakLoop& loop_;
    index_t calls_ = 1;  ///< of the loop in one measurement
    std::unique_ptr<Buffer> buffer_;
    index_t next_part_ = 0;
};

/// The limits alone, as a case of their own: what is measured beside every repetition is all there is.
class MachineBenchmark final : public Benchmark {
public:
    void repeat(bool) override {}
    [[nodiscard]] std::vector<std::span<const double>> samples() const override { return {}; }
    void report(Report&, const MachineLimits&) const override {}
};

}  // namespace moesaic::bench
