#include "bench/machine.hpp"

#include "bench/timing.hpp"
#include "train/runtime.hpp"

#include <omp.h>

#include <algorithm>

namespace moesaic::bench {
namespace {

constexpr double seconds_per_measurement = 0.02;
constexpr std::int64_t rounds_per_call = 20000;
constexpr index_t mebibyte = index_t{1} << 20U;
constexpr index_t parts = 4;

void run_on_all_threads(const kernels::PeakLoop& loop, index_t calls) {
    float kept = 0;
#pragma omp parallel reduction(+ : kept)
    for (index_t call = 0; call < calls; ++call) {
        kept += loop.run(rounds_per_call);
    }
    static_cast<void>(kept);
}

}  // namespace

kernels::Isa bf16_level(const kernels::KernelSet& kernels) {
    return kernels.of<core::bf16>().gemm.isa;
}

index_t bytes_beyond_caches(const mpi::Communicator& world, index_t cache_bytes, index_t memory_bytes) {
    const index_t wanted = std::clamp(3 * cache_bytes, 256 * mebibyte, 4096 * mebibyte);
    return world.min(std::min(wanted, memory_bytes / 4));
}

index_t bytes_beyond_caches(const train::Runtime& runtime) {
    return bytes_beyond_caches(runtime.world, host::last_level_cache_bytes(runtime.placement.processing_units),
                               runtime.memory_bytes());
}

CacheWorkingSets working_sets(const std::vector<host::Cache>& caches, int units_per_core, int threads) {
    const auto cores_that_share = [&](const host::Cache& cache) {
        return std::max(1, cache.shared_by / units_per_core);
    };
    CacheWorkingSets sets;
    index_t of_core = 0;  // bytes of the second level
    for (const host::Cache& cache : caches) {
        if (cache.level == 2 && cache.bytes > 0 && cache.type != "instruction") {
            of_core = cache.bytes / cores_that_share(cache);
            sets.second_level = of_core / 2;
        }
    }
    for (const host::Cache& cache : caches) {
        const int sharing = std::min(threads, cores_that_share(cache));
        if (cache.level == 3 && of_core > 0 && 2 * 2 * of_core * sharing <= cache.bytes) {
            sets.third_level = 2 * of_core;
        }
    }
    return sets;
}

MachineProbe::MachineProbe(const mpi::Communicator& world, const kernels::PeakLoop& loop, index_t bytes)
    : world_(world), loop_(loop) {
    world.agree([&] { memory_ = TeamMemory(parts, bytes / parts); });
    calls_ = repeats_for(world, seconds_per_measurement, [&] { run_on_all_threads(loop_, 1); });
    for (index_t part = 0; part < parts; ++part) {
        static_cast<void>(read_next_part());
    }
}

Sample MachineProbe::read_next_part() {
    const Sample seconds = seconds_of(world_, [&] { memory_.read(loop_, next_part_); });
    next_part_ = (next_part_ + 1) % parts;
    return seconds;
}

MachineProbe::Limits MachineProbe::measure() {
    const Sample loop_seconds = seconds_of(world_, [&] { run_on_all_threads(loop_, calls_); });
    const double operations = loop_.operations * static_cast<double>(rounds_per_call * calls_ * omp_get_max_threads());
    return {loop_seconds.rate_of(operations * 1e-9), read_next_part().rate_of(memory_.bytes_of_each() * 1e-9)};
}

}  // namespace moesaic::bench
