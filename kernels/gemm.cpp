#include "kernels/kernel_set.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.hpp"
#include "core/parallel.hpp"

namespace moesaic::kernels {
namespace {

/// The best of a list that the machine runs, at most of level `limit`.
template <class Implementation>
Implementation best_of(std::span<const Implementation> list, Isa limit) {
    const auto usable = [limit](const Implementation& entry) {
        return entry.isa <= limit && runs(entry.isa) && (entry.isa != Isa::avx512_bf16 || bf16_pairs_are_faster());
    };
    return *std::find_if(list.rbegin(), list.rend(), usable);  // the portable one always is
}

/// Highest level that the name of `compute.isa` admits.
std::optional<Isa> parse_level(std::string_view level) {
    if (level == "auto") {
        return Isa::amx;
    }
    if (level == "avx512") {
        return Isa::avx512_bf16;
    }
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::amx}) {
        if (level == name(isa)) {
            return isa;
        }
    }
    return std::nullopt;
}

/// Throws if the machine can't run the level.
Isa checked_level(std::string_view level) {
    const std::optional<Isa> isa = parse_level(level);
    const Isa needed = level == "avx512" ? Isa::avx512 : isa.value_or(Isa::portable);
    if (isa.has_value() && (level == "auto" || runs(needed))) {
        return *isa;
    }
    std::string usable;
    std::string why = "no such level";
    for (const IsaReport& report : self_test()) {
        if (report.usable && report.isa != Isa::avx512_bf16) {
            usable.append(usable.empty() ? "" : ", ").append(name(report.isa));
        }
        if (isa.has_value() && report.isa == needed) {
            why = report.explanation;
        }
    }
    core::fail(core::ExitCode::usage, "compute.isa = {} can't be used ({}); use auto, or one of: {}", level, why,
               usable);
}

/// Rows and columns of the blocks that products are split into: multiples of 32, as large as lets the packed operands
/// stay in L2 and be used often.
struct BlockSize {
    index_t rows;
    index_t cols;
};
constexpr std::array block_sizes = {BlockSize{512, 512}, BlockSize{256, 512}, BlockSize{256, 256}, BlockSize{128, 256},
                                    BlockSize{128, 128}, BlockSize{64, 128},  BlockSize{64, 64},   BlockSize{32, 64}};

/// One block of one product of a batch.
struct Task {
    std::size_t product;
    index_t row;
    index_t rows;
    index_t col;
    index_t cols;
    double work;  // multiplications
};

/// Parts of an extent: about `target` long, boundaries at multiples of `unit`, the last part takes what remains. No
/// part is shorter than a unit unless the extent is, so that every element lies in the same register block whatever the
/// split.
struct Parts {
    static constexpr index_t unit = 32;

    Parts(index_t extent_in, index_t target) : extent(extent_in) {
        const index_t units = std::max<index_t>(1, extent / unit);
        count = std::max<index_t>(1, (units * unit + target / 2) / target);
        length = (units + count - 1) / count * unit;
        count = (units * unit + length - 1) / length;
    }
    [[nodiscard]] index_t begin(index_t part) const { return part * length; }
    [[nodiscard]] index_t size(index_t part) const { return part + 1 < count ? length : extent - begin(part); }

    index_t extent;
    index_t length = 0;
    index_t count = 0;
};

template <class T>
double work_of(std::span<const Gemm<T>> batch) {
    double work = 0;
    for (const Gemm<T>& product : batch) {
        work += static_cast<double>(product.m) * static_cast<double>(product.n) * static_cast<double>(product.k);
    }
    return work;
}

template <class T>
std::vector<Task> split(std::span<const Gemm<T>> batch, BlockSize block) {
    std::vector<Task> tasks;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const Gemm<T>& product = batch[i];
        if (product.m == 0 || product.n == 0) {
            continue;
        }
        const Parts rows(product.m, block.rows);
        const Parts cols(product.n, block.cols);
        for (index_t r = 0; r < rows.count; ++r) {
            for (index_t c = 0; c < cols.count; ++c) {
                const double work = static_cast<double>(rows.size(r)) * static_cast<double>(cols.size(c)) *
                                    static_cast<double>(product.k);
                tasks.push_back({i, rows.begin(r), rows.size(r), cols.begin(c), cols.size(c), work});
            }
        }
    }
    return tasks;
}

/// Tasks for `threads` threads, largest first: the blocks are the largest of which each thread gets a few.
template <class T>
std::vector<Task> schedule(std::span<const Gemm<T>> batch, int threads) {
    constexpr double tasks_per_thread = 3;
    const double largest_allowed = work_of(batch) / (tasks_per_thread * threads);
    std::vector<Task> tasks;
    for (const BlockSize& block : block_sizes) {
        tasks = split(batch, block);
        const auto too_large = [=](const Task& task) { return task.work > largest_allowed; };
        if (std::none_of(tasks.begin(), tasks.end(), too_large)) {
            break;
        }
    }
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.work > b.work; });
    return tasks;
}

/// The product that computes one block of C.
template <class T>
Gemm<T> block_of(const Gemm<T>& product, const Task& task) {
    Gemm<T> block = product;
    block.m = task.rows;
    block.n = task.cols;
    block.a += task.row * (product.transpose_a ? 1 : product.lda);
    block.b += task.col * (product.transpose_b ? product.ldb : 1);
    block.c += task.row * product.ldc + task.col;
    return block;
}

template <class T>
void run_batch(const GemmKernel<T>& kernel, std::span<const Gemm<T>> batch) {
    const int threads = core::threads_for(work_of(batch));
    if (threads == 1) {
        for (const Gemm<T>& product : batch) {
            kernel.run(product);
        }
        return;
    }
    const std::vector<Task> tasks = schedule(batch, threads);
    core::parallel_for(static_cast<index_t>(tasks.size()), threads, [&](index_t i) {
        const Task& task = tasks[static_cast<std::size_t>(i)];
        kernel.run(block_of(batch[task.product], task));
    });
}

}  // namespace

KernelSet::KernelSet(std::string_view level)
    : bf16_(best_of(gemm_kernels<core::bf16>(), checked_level(level))),
      float_(best_of(gemm_kernels<float>(), checked_level(level))),
      double_(best_of(gemm_kernels<double>(), checked_level(level))),
      elementwise_bf16_(best_of(elementwise_kernels<core::bf16>(), checked_level(level)).kernels),
      elementwise_float_(best_of(elementwise_kernels<float>(), checked_level(level)).kernels),
      elementwise_double_(best_of(elementwise_kernels<double>(), checked_level(level)).kernels) {}

KernelSet::KernelSet(const GemmKernel<core::bf16>& kernel)
    : bf16_(kernel),
      float_(best_of(gemm_kernels<float>(), kernel.isa)),
      double_(best_of(gemm_kernels<double>(), kernel.isa)),
      elementwise_bf16_(best_of(elementwise_kernels<core::bf16>(), kernel.isa).kernels),
      elementwise_float_(best_of(elementwise_kernels<float>(), kernel.isa).kernels),
      elementwise_double_(best_of(elementwise_kernels<double>(), kernel.isa).kernels) {}

template <>
void KernelSet::run(std::span<const Gemm<core::bf16>> batch) const {
    run_batch(bf16_, batch);
}
template <>
void KernelSet::run(std::span<const Gemm<float>> batch) const {
    run_batch(float_, batch);
}
template <>
void KernelSet::run(std::span<const Gemm<double>> batch) const {
    run_batch(double_, batch);
}

template <>
void KernelSet::run_on_calling_thread(const Gemm<core::bf16>& product) const {
    bf16_.run(product);
}
template <>
void KernelSet::run_on_calling_thread(const Gemm<float>& product) const {
    float_.run(product);
}
template <>
void KernelSet::run_on_calling_thread(const Gemm<double>& product) const {
    double_.run(product);
}

template <>
const micro_kernel_t<core::bf16>& KernelSet::micro_kernel<core::bf16>() const {
    return *bf16_.micro_kernel;
}
template <>
const micro_kernel_t<float>& KernelSet::micro_kernel<float>() const {
    return *float_.micro_kernel;
}
template <>
const micro_kernel_t<double>& KernelSet::micro_kernel<double>() const {
    return *double_.micro_kernel;
}

template <>
std::string_view KernelSet::gemm_name<core::bf16>() const {
    return bf16_.name;
}
template <>
std::string_view KernelSet::gemm_name<float>() const {
    return float_.name;
}
template <>
std::string_view KernelSet::gemm_name<double>() const {
    return double_.name;
}

template <>
const ElementwiseKernels<core::bf16>& KernelSet::elementwise() const {
    return *elementwise_bf16_;
}
template <>
const ElementwiseKernels<float>& KernelSet::elementwise() const {
    return *elementwise_float_;
}
template <>
const ElementwiseKernels<double>& KernelSet::elementwise() const {
    return *elementwise_double_;
}

}  // namespace moesaic::kernels
