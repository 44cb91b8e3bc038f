#include "bench/machine_report.hpp"

#include <fmt/format.h>
#include <omp.h>

namespace moesaic::bench {

MachineLimits report_machine(Report& report, const kernels::KernelSet& kernels, index_t memory_bytes) {
    const Peak peak = measure_peak(report.world(), bf16_level(kernels));
    const Summary dram = measure_dram_read(report.world(), peak.isa, memory_bytes);
    const int threads = omp_get_max_threads();
    const bool amx = peak.isa == kernels::Isa::amx;
    report.say(fmt::format("{}, ranks {}, threads per rank {}, level {}{}\n", cpu_model(), report.world().size(),
                           threads, kernels::name(peak.isa),
                           amx ? "" : " (no AMX: the peak is that of vector registers)"));
    report.say(fmt::format("  multiply-add in registers, 1 thread    {:9.1f} GFLOP/s (median {:.1f})\n",
                           peak.one_thread.max, peak.one_thread.median));
    report.say(fmt::format("  multiply-add in registers, all threads {:9.1f} GFLOP/s (median {:.1f})\n",
                           peak.all_threads.max, peak.all_threads.median));
    report.say(fmt::format("  read from memory, all threads          {:9.1f} GB/s (median {:.1f})\n\n", dram.max,
                           dram.median));
    report.add_limit(amx ? "amx_peak" : "isa_peak", "GFLOP/s", peak.all_threads);
    report.add_limit("dram_read", "GB/s", dram);
    return {peak.all_threads.max * 1e9, dram.max * 1e9};
}

}  // namespace moesaic::bench
