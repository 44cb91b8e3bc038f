#include "bench/benchmark.hpp"

#include "core/trace.hpp"
#include "kernels/isa.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::bench {
namespace {

bool is_narrow(const Benchmark& benchmark, double spread_percent) {
    const auto samples = benchmark.samples();
    return std::all_of(samples.begin(), samples.end(), [&](std::span<const double> values) {
        constexpr index_t least = 6;  // fewer can't tell
        const measure::Summary summary = measure::summarize({values.begin(), values.end()});
        return summary.n >= least && summary.spread_percent() <= spread_percent;
    });
}

}  // namespace

void measure_round(Console& console, Benchmark& benchmark, train::MachineProbe* machine, const Repetition& repetition) {
    measure::CaseResult& result = console.result();
    const index_t least = (repetition.least + repetition.rounds - 1) / repetition.rounds;
    const std::int64_t begin = core::trace::now_ns();
    benchmark.repeat(/*record=*/false);
    index_t done = 0;
    for (bool enough = false; !enough;) {
        if (machine != nullptr) {
            const train::MachineProbe::Limits limits = machine->measure();
            result.machine->peak.push_back(limits.gflops.slowest);
            result.machine->dram_read.push_back(limits.gigabytes_per_second.slowest);
            console.limits_of_rank().peak.push_back(limits.gflops.mine);
            console.limits_of_rank().dram_read.push_back(limits.gigabytes_per_second.mine);
        }
        benchmark.repeat(/*record=*/true);
        ++done;
        const double seconds = console.world().max(static_cast<double>(core::trace::now_ns() - begin) * 1e-9);
        enough = done >= least && (seconds * static_cast<double>(repetition.rounds) >= repetition.seconds ||
                                   is_narrow(benchmark, repetition.spread_percent));
    }
    result.rounds.push_back(done);
}

measure::MachineLimits report_limits(Console& console) {
    if (!console.result().machine) {
        return {};
    }
    const measure::MachineSamples machine = *console.result().machine;
    const bool amx = machine.level == kernels::name(kernels::Isa::amx);
    const double peak = measure::best_of(machine.peak);
    const double read = measure::best_of(machine.dram_read);
    console.say(fmt::format(
        "limits of a rank, all threads: multiply-add in registers {:.1f} GFLOP/s (median {:.1f}; {}{}), read from "
        "memory {:.1f} GB/s (median {:.1f})\n",
        peak, measure::summarize(machine.peak).median, machine.level,
        amx ? "" : ", no AMX: the peak is that of vector registers", read,
        measure::summarize(machine.dram_read).median));
    console.add_limit(amx ? measure::figures::amx_peak : measure::figures::isa_peak, "GFLOP/s",
                      {machine.peak, console.limits_of_rank().peak});
    console.add_limit(measure::figures::dram_read, "GB/s", {machine.dram_read, console.limits_of_rank().dram_read});
    return {1e9 * peak, 1e9 * read};
}

}  // namespace moesaic::bench
