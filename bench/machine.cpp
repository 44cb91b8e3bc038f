#include "bench/machine.hpp"

#include "bench/timing.hpp"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <span>

namespace moesaic::bench {
namespace {

constexpr double seconds_per_measurement = 0.02;
constexpr std::int64_t rounds_per_call = 20000;
constexpr index_t mebibyte = index_t{1} << 20U;

const kernels::PeakLoop& loop_of(kernels::Isa isa) {
    const auto loops = kernels::peak_loops();
    return *std::find_if(loops.begin(), loops.end(), [isa](const kernels::PeakLoop& loop) { return loop.isa == isa; });
}

void run_on_all_threads(const kernels::PeakLoop& loop, index_t calls) {
    float kept = 0;
#pragma omp parallel reduction(+ : kept)
    for (index_t call = 0; call < calls; ++call) {
        kept += loop.run(rounds_per_call);
    }
    static_cast<void>(kept);
}

}  // namespace

/// Memory in huge pages where the system gives them, first touched by the threads that will read it. It is read part by
/// part: by the time that a line comes again, all others have been read.
class MachineProbe::Buffer {
public:
    static constexpr index_t parts = 4;

    explicit Buffer(index_t bytes) : count_(bytes / static_cast<index_t>(sizeof(float)) / parts) {
        constexpr std::size_t huge_page = std::size_t{2} << 20U;
        const std::size_t rounded = (static_cast<std::size_t>(bytes) + huge_page - 1) / huge_page * huge_page;
        data_.reset(static_cast<float*>(std::aligned_alloc(huge_page, rounded)));
        if (data_ == nullptr) {
            throw std::bad_alloc();
        }
        madvise(data_.get(), rounded, MADV_HUGEPAGE);  // a wish: without huge pages the reads are only slower
#pragma omp parallel
        for (index_t part = 0; part < parts; ++part) {
            const auto share = share_of_thread(part);
            std::fill(share.begin(), share.end(), 1.0F);
        }
    }
    [[nodiscard]] double part_bytes() const {
        return static_cast<double>(count_) * sizeof(float);
    }
    /// What the calling thread reads of a part in its team.
    [[nodiscard]] std::span<float> share_of_thread(index_t part) const {
        const index_t thread = omp_get_thread_num();
        const index_t threads = omp_get_num_threads();
        const index_t begin = count_ * thread / threads;
        return {data_.get() + part * count_ + begin, static_cast<std::size_t>(count_ * (thread + 1) / threads - begin)};
    }

private:
    struct Free {
        void operator()(float* pointer) const noexcept { std::free(pointer); }
    };
    index_t count_;  // of floats in a part
    std::unique_ptr<float, Free> data_;
};

kernels::Isa bf16_level(const kernels::KernelSet& kernels) {
    const auto list = kernels::gemm_kernels<core::bf16>();
    const auto name = kernels.gemm_name<core::bf16>();
    return std::find_if(list.begin(), list.end(), [name](const auto& kernel) { return kernel.name == name; })->isa;
}

index_t last_level_cache_bytes() {
    const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? bytes : 64 * mebibyte;
}

MachineProbe::MachineProbe(const mpi::Communicator& world, kernels::Isa level, index_t memory_bytes)
    : world_(world), loop_(loop_of(level)) {
    const index_t wanted = std::clamp(3 * last_level_cache_bytes(), 256 * mebibyte, 4096 * mebibyte);
    const index_t bytes = world.min(std::min(wanted, memory_bytes / 4));
    world.agree([&] { buffer_ = std::make_unique<Buffer>(bytes); });
    calls_ = repeats_for(world, seconds_per_measurement, [&] { run_on_all_threads(loop_, 1); });
    for (index_t part = 0; part < Buffer::parts; ++part) {
        static_cast<void>(read_next_part());
    }
}

MachineProbe::~MachineProbe() = default;

kernels::Isa MachineProbe::level() const noexcept {
    return loop_.isa;
}

double MachineProbe::read_next_part() {
    float sum = 0;
    const double seconds = seconds_of_slowest(world_, [&] {
#pragma omp parallel reduction(+ : sum)
        {
            const auto share = buffer_->share_of_thread(next_part_);
            sum += loop_.read(share.data(), static_cast<std::int64_t>(share.size()));
        }
    });
    volatile float kept = sum;  // or the reads could be left out
    static_cast<void>(kept);
    next_part_ = (next_part_ + 1) % Buffer::parts;
    return seconds;
}

MachineProbe::Sample MachineProbe::measure() {
    const double loop_seconds = seconds_of_slowest(world_, [&] { run_on_all_threads(loop_, calls_); });
    const double operations = loop_.operations * static_cast<double>(rounds_per_call * calls_ * omp_get_max_threads());
    return {operations * 1e-9 / loop_seconds, buffer_->part_bytes() * 1e-9 / read_next_part()};
}

}  // namespace moesaic::bench
