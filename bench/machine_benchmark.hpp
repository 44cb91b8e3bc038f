// moesaic bench machine: how fast a rank gets at data in caches and in memory, beside the limits that every case has.
#pragma once

#include "bench/benchmark.hpp"
#include "bench/team_memory.hpp"
#include "host/caches.hpp"
#include "host/placement.hpp"
#include "kernels/kernel_set.hpp"

#include <optional>
#include <string>
#include <vector>

namespace moesaic::bench {

/// Bytes per thread that stay in each cache: half of the second level, and twice it in the third, if the third level
/// holds twice as much of all `threads` that run on a host. Nothing for a cache that is not there, or too small.
struct CacheWorkingSets {
    std::optional<index_t> second_level;
    std::optional<index_t> third_level;
};
[[nodiscard]] CacheWorkingSets working_sets(const std::vector<host::Cache>& caches, int units_per_core, int threads);

/// Reading from the second and the third level of caches, and the sum of two arrays in memory as STREAM's Add does it
/// (McCalpin, 1995): c = a + b, of which 12 bytes per element count.
class MachineBenchmark final : public Benchmark {
public:
    /// Collective. `kernels` must outlive the object. Allocates `memory_bytes` for the arrays.
    MachineBenchmark(Console& console, const kernels::KernelSet& kernels, const host::Placement& placement,
                     index_t memory_bytes);

    void repeat(bool record) override;
    /// None: of limits the best sample counts, and more of them would not narrow it.
    [[nodiscard]] std::vector<std::span<const double>> samples() const override { return {}; }
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    struct CacheReads {
        std::string name;
        TeamMemory memory;
        index_t repeats = 1;  ///< in one measurement
        std::vector<double> gigabytes_per_second{};
    };
    void add_cache(const std::string& name, index_t bytes_per_thread);
    void sum_arrays();

    mpi::Communicator world_;
    const kernels::PeakLoop& loop_;
    const kernels::ElementwiseKernels<float>& elementwise_;
    std::vector<CacheReads> caches_;
    TeamMemory arrays_;  ///< a, b, c
    std::vector<double> stream_add_;
};

}  // namespace moesaic::bench
