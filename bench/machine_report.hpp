// The first lines of every benchmark: what the machine can do at best.
#pragma once

#include "bench/machine.hpp"
#include "bench/report.hpp"

namespace moesaic::bench {

/// Limits that results are compared with: the best of several measurements.
struct MachineLimits {
    double peak_flops = 0;        ///< per second, all threads of a rank
    double bytes_per_second = 0;  ///< read from memory by all threads of a rank
};

/// Collective. Measures, prints, and adds `amx_peak` (`isa_peak` where the BF16 kernel is not AMX) and `dram_read`.
/// `memory_bytes`: what a rank may use.
[[nodiscard]] MachineLimits report_machine(Report& report, const kernels::KernelSet& kernels, index_t memory_bytes);

}  // namespace moesaic::bench
