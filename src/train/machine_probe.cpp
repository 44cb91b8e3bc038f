#include "train/machine_probe.hpp"

#include "host/caches.hpp"
#include "train/runtime.hpp"

#include <omp.h>

#include <algorithm>

namespace moesaic::train {
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

index_t bytes_beyond_caches(const Ranks& ranks) {
    return bytes_beyond_caches(ranks.world, host::last_level_cache_bytes(ranks.placement.processing_units),
                               ranks.memory_bytes());
}

MachineProbe::MachineProbe(const mpi::Communicator& world, const kernels::PeakLoop& loop, index_t bytes)
    : world_(world), loop_(loop) {
    world.agree([&] { memory_ = TeamMemory(parts, bytes / parts); });
    calls_ = mpi::repeats_for(world, seconds_per_measurement, [&] { run_on_all_threads(loop_, 1); });
    for (index_t part = 0; part < parts; ++part) {
        static_cast<void>(read_next_part());
    }
}

mpi::Sample MachineProbe::read_next_part() {
    const mpi::Sample seconds = mpi::seconds_of(world_, [&] { memory_.read(loop_, next_part_); });
    next_part_ = (next_part_ + 1) % parts;
    return seconds;
}

MachineProbe::Limits MachineProbe::measure() {
    const mpi::Sample loop_seconds = mpi::seconds_of(world_, [&] { run_on_all_threads(loop_, calls_); });
    const double operations = loop_.operations * static_cast<double>(rounds_per_call * calls_ * omp_get_max_threads());
    return {loop_seconds.rate_of(operations * 1e-9), read_next_part().rate_of(memory_.bytes_of_each() * 1e-9)};
}

}  // namespace moesaic::train
