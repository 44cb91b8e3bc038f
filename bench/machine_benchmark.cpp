// moesaic bench machine: how fast a rank gets at data in caches and in memory, beside the limits that every case has.
#include "bench/benchmark.hpp"
#include "bench/working_sets.hpp"
#include "core/units.hpp"
#include "train/machine_probe.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::bench {
namespace {

constexpr double seconds_per_measurement = 0.01;
constexpr index_t a = 0;
constexpr index_t b = 1;
constexpr index_t c = 2;

/// Reading from the second and the third level of caches, and the sum of two arrays in memory as STREAM's Add does it
/// (McCalpin, 1995): c = a + b, of which 12 bytes per element count.
class MachineBenchmark final : public Benchmark {
public:
    /// Collective.
    MachineBenchmark(const train::Runtime& runtime, Console& console);

    void repeat(bool record) override;
    /// None: of limits the best sample counts, and more of them would not narrow it.
    [[nodiscard]] std::vector<std::span<const double>> samples() const override { return {}; }
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    struct CacheReads {
        std::string name;
        train::TeamMemory memory;
        index_t repeats = 1;  ///< in one measurement
        Samples gigabytes_per_second{};
    };
    void add_cache(const std::string& name, index_t bytes_per_thread);
    void sum_arrays();

    mpi::Communicator world_;
    const kernels::PeakLoop& loop_;
    const kernels::ElementwiseKernels<float>& elementwise_;
    std::vector<CacheReads> caches_;
    train::TeamMemory arrays_;  ///< a, b, c
    Samples stream_add_;
};

MachineBenchmark::MachineBenchmark(const train::Runtime& runtime, Console& console)
    : world_(runtime.world),
      loop_(kernels::peak_loop(train::bf16_level(runtime.kernels))),
      elementwise_(runtime.kernels.elementwise<float>()) {
    const host::Placement& placement = runtime.placement;
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
    const index_t memory_bytes = train::bytes_beyond_caches(runtime);
    world_.agree([&] { arrays_ = train::TeamMemory(arrays, memory_bytes / arrays); });
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
    world_.agree([&] { reads.memory = train::TeamMemory(1, bytes_per_thread * omp_get_max_threads()); });
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
    const auto keep = [&](Samples& rates, double bytes, const Sample& seconds) {
        if (record) {
            rates.push_back(seconds.rate_of(bytes * 1e-9));
        }
    };
    for (CacheReads& reads : caches_) {
        const double bytes = reads.memory.bytes_of_each() * static_cast<double>(reads.repeats);
        keep(reads.gigabytes_per_second, bytes,
             seconds_of(world_, [&] { reads.memory.read(loop_, 0, reads.repeats); }));
    }
    keep(stream_add_, 3 * arrays_.bytes_of_each(), seconds_of(world_, [&] { sum_arrays(); }));
}

void MachineBenchmark::report(Console& console, const measure::MachineLimits&) const {
    for (const CacheReads& reads : caches_) {
        console.say(fmt::format("{}: {:.0f} KiB of every thread again and again, {:.1f} GB/s (median {:.1f})\n",
                                reads.name, reads.memory.bytes_of_each() / 1024 / omp_get_max_threads(),
                                measure::best_of(reads.gigabytes_per_second.slowest),
                                measure::summarize(reads.gigabytes_per_second.slowest).median));
        console.add_limit(reads.name, "GB/s", reads.gigabytes_per_second);
    }
    console.say(fmt::format("stream_add: c = a + b, arrays of {:.0f} MiB, {:.1f} GB/s (median {:.1f})\n",
                            arrays_.bytes_of_each() / core::mebibyte, measure::best_of(stream_add_.slowest),
                            measure::summarize(stream_add_.slowest).median));
    console.add_limit("stream_add", "GB/s", stream_add_);
}

struct MachineBenchmarkSettings final : BenchmarkSettings {
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override {
        return std::make_unique<MachineBenchmark>(runtime, console);
    }
};

}  // namespace

std::unique_ptr<BenchmarkSettings> make_machine_settings() {
    return std::make_unique<MachineBenchmarkSettings>();
}

}  // namespace moesaic::bench
