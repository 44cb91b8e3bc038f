#include "bench/machine_benchmark.hpp"

#include "bench/machine.hpp"
#include "bench/timing.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

namespace moesaic::bench {
namespace {

constexpr double seconds_per_measurement = 0.01;
constexpr index_t a = 0;
constexpr index_t b = 1;
constexpr index_t c = 2;

}  // namespace

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

MachineBenchmark::MachineBenchmark(Console& console, const kernels::KernelSet& kernels,
                                   const host::Placement& placement, index_t memory_bytes)
    : world_(console.world()),
      loop_(kernels::peak_loop(bf16_level(kernels))),
      elementwise_(kernels.elementwise<float>()) {
    const int unit = placement.processing_units.empty() ? 0 : placement.processing_units.front();
    const CacheWorkingSets sets =
        working_sets(host::read_caches(unit), placement.units_per_core, placement.threads * placement.node_ranks);
    // Ranks on unlike machines measure what all of them have.
    const auto everywhere = [&](const std::optional<index_t>& bytes) { return world_.min(bytes.value_or(0)); };
    for (const auto& [name, bytes] : {std::pair{measure::figures::l2_read, everywhere(sets.second_level)},
                                      std::pair{measure::figures::l3_read, everywhere(sets.third_level)}}) {
        if (bytes > 0) {
            add_cache(name, bytes);
        }
    }
    constexpr index_t arrays = 3;
    world_.agree([&] { arrays_ = TeamMemory(arrays, memory_bytes / arrays); });
    sum_arrays();
    double wrong = 0;
#pragma omp parallel reduction(+ : wrong)
    for (const float sum : arrays_.share_of_thread(c)) {
        wrong += sum == 2 ? 0 : 1;
    }
    console.add_check("error_stream_add", wrong * sizeof(float) / arrays_.bytes_of_each(), 0);
}

void MachineBenchmark::add_cache(const std::string& name, index_t bytes_per_thread) {
    CacheReads& reads = caches_.emplace_back(CacheReads{name, {}});
    world_.agree([&] { reads.memory = TeamMemory(1, bytes_per_thread * omp_get_max_threads()); });
    reads.repeats = repeats_for(world_, seconds_per_measurement, [&] { reads.memory.read(loop_, 0); });
}

void MachineBenchmark::sum_arrays() {
#pragma omp parallel
    {
        const auto sum = arrays_.share_of_thread(c);
        elementwise_.add(static_cast<index_t>(sum.size()), arrays_.share_of_thread(a).data(),
                         arrays_.share_of_thread(b).data(), sum.data());
    }
}

void MachineBenchmark::repeat(bool record) {
    const auto keep = [&](std::vector<double>& rates, double bytes, double seconds) {
        if (record) {
            rates.push_back(bytes * 1e-9 / seconds);
        }
    };
    for (CacheReads& reads : caches_) {
        const double bytes = reads.memory.bytes_of_each() * static_cast<double>(reads.repeats);
        keep(reads.gigabytes_per_second, bytes,
             seconds_of_slowest(world_, [&] { reads.memory.read(loop_, 0, reads.repeats); }));
    }
    keep(stream_add_, 3 * arrays_.bytes_of_each(), seconds_of_slowest(world_, [&] { sum_arrays(); }));
}

void MachineBenchmark::report(Console& console, const measure::MachineLimits&) const {
    for (const CacheReads& reads : caches_) {
        console.say(fmt::format("{}: {:.0f} KiB of every thread again and again, {:.1f} GB/s (median {:.1f})\n",
                                reads.name, reads.memory.bytes_of_each() / 1024 / omp_get_max_threads(),
                                measure::best_of(reads.gigabytes_per_second),
                                measure::summarize(reads.gigabytes_per_second).median));
        console.add_limit(reads.name, "GB/s", reads.gigabytes_per_second);
    }
    console.say(fmt::format("stream_add: c = a + b, arrays of {:.0f} MiB, {:.1f} GB/s (median {:.1f})\n",
                            arrays_.bytes_of_each() / (1 << 20), measure::best_of(stream_add_),
                            measure::summarize(stream_add_).median));
    console.add_limit("stream_add", "GB/s", stream_add_);
}

}  // namespace moesaic::bench
