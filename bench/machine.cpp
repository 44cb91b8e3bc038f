#include "bench/machine.hpp"

#include "bench/timing.hpp"
#include "kernels/peak.hpp"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <span>

namespace moesaic::bench {
namespace {

constexpr int loop_repetitions = 15;
constexpr int read_repetitions = 7;  // each takes far longer
constexpr double seconds_per_repetition = 0.02;
constexpr index_t mebibyte = index_t{1} << 20U;

const kernels::PeakLoop& loop_of(kernels::Isa isa) {
    const auto loops = kernels::peak_loops();
    return *std::find_if(loops.begin(), loops.end(), [isa](const kernels::PeakLoop& loop) { return loop.isa == isa; });
}

/// Collective. GFLOP/s of `threads` threads together.
Summary measure_loop(const mpi::Communicator& world, const kernels::PeakLoop& loop, int threads) {
    constexpr std::int64_t rounds_per_call = 20000;
    const auto run = [&](index_t calls) {
        float kept = 0;
#pragma omp parallel num_threads(threads) reduction(+ : kept)
        for (index_t call = 0; call < calls; ++call) {
            kept += loop.run(rounds_per_call);
        }
        static_cast<void>(kept);
    };
    const index_t calls = repeats_for(world, seconds_per_repetition, [&] { run(1); });
    std::vector<double> seconds;
    for (int i = 0; i < loop_repetitions; ++i) {
        seconds.push_back(seconds_of_slowest(world, [&] { run(calls); }));
    }
    const double operations = loop.operations * static_cast<double>(rounds_per_call * calls * threads);
    return rate(operations * 1e-9, summarize(std::move(seconds)));
}

/// Memory in huge pages where the system gives them, first touched by the threads that will read it.
class LargeBuffer {
public:
    explicit LargeBuffer(index_t bytes) : count_(bytes / static_cast<index_t>(sizeof(float))) {
        constexpr std::size_t huge_page = std::size_t{2} << 20U;
        const std::size_t rounded = (static_cast<std::size_t>(bytes) + huge_page - 1) / huge_page * huge_page;
        data_.reset(static_cast<float*>(std::aligned_alloc(huge_page, rounded)));
        if (data_ == nullptr) {
            throw std::bad_alloc();
        }
        madvise(data_.get(), rounded, MADV_HUGEPAGE);  // a wish: without huge pages the reads are only slower
#pragma omp parallel
        {
            const auto part = part_of_thread();
            std::fill(part.begin(), part.end(), 1.0F);
        }
    }
    /// The share of the calling thread in its team.
    [[nodiscard]] std::span<float> part_of_thread() const {
        const index_t thread = omp_get_thread_num();
        const index_t threads = omp_get_num_threads();
        const index_t begin = count_ * thread / threads;
        return {data_.get() + begin, static_cast<std::size_t>(count_ * (thread + 1) / threads - begin)};
    }

private:
    struct Free {
        void operator()(float* pointer) const noexcept { std::free(pointer); }
    };
    index_t count_;
    std::unique_ptr<float, Free> data_;
};

float read_all(const LargeBuffer& buffer, const kernels::PeakLoop& loop) {
    float sum = 0;
#pragma omp parallel reduction(+ : sum)
    {
        const auto part = buffer.part_of_thread();
        sum += loop.read(part.data(), static_cast<std::int64_t>(part.size()));
    }
    return sum;
}

}  // namespace

kernels::Isa bf16_level(const kernels::KernelSet& kernels) {
    const auto list = kernels::gemm_kernels<core::bf16>();
    const auto name = kernels.gemm_name<core::bf16>();
    return std::find_if(list.begin(), list.end(), [name](const auto& kernel) { return kernel.name == name; })->isa;
}

Peak measure_peak(const mpi::Communicator& world, kernels::Isa isa) {
    const kernels::PeakLoop& loop = loop_of(isa);
    const int threads = omp_get_max_threads();
    const Summary one = measure_loop(world, loop, 1);
    return {isa, one, threads == 1 ? one : measure_loop(world, loop, threads)};
}

Summary measure_dram_read(const mpi::Communicator& world, kernels::Isa isa, index_t memory_bytes) {
    // Three caches full: by the time that a line comes again, it was replaced. Bounded by the memory.
    const index_t wanted = std::clamp(3 * last_level_cache_bytes(), 256 * mebibyte, 4096 * mebibyte);
    const index_t bytes = world.min(std::min(wanted, memory_bytes / 4));
    const LargeBuffer buffer(bytes);
    const kernels::PeakLoop& loop = loop_of(isa);
    volatile float kept = read_all(buffer, loop);
    std::vector<double> seconds;
    for (int i = 0; i < read_repetitions; ++i) {
        seconds.push_back(seconds_of_slowest(world, [&] { kept = read_all(buffer, loop); }));
    }
    return rate(static_cast<double>(bytes) * 1e-9, summarize(std::move(seconds)));
}

index_t last_level_cache_bytes() {
    const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? bytes : 64 * mebibyte;
}

std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) {
            return line.substr(std::min(line.find(':') + 2, line.size()));
        }
    }
    return "unknown";
}

}  // namespace moesaic::bench
