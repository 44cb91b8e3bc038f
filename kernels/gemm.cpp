// Products on the calling thread, and batches of them on the thread team.
#include "kernels/kernel_set.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "core/parallel.hpp"
#include "kernels/detail/blocked_product.hpp"

namespace moesaic::kernels {
namespace {

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

template <class Scalar>
double work_of(std::span<const Gemm<Scalar>> batch) {
    double work = 0;
    for (const Gemm<Scalar>& product : batch) {
        work += static_cast<double>(product.m) * static_cast<double>(product.n) * static_cast<double>(product.k);
    }
    return work;
}

template <class Scalar>
std::vector<Task> split(std::span<const Gemm<Scalar>> batch, BlockSize block) {
    std::vector<Task> tasks;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const Gemm<Scalar>& product = batch[i];
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
template <class Scalar>
std::vector<Task> schedule(std::span<const Gemm<Scalar>> batch, int threads) {
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
template <class Scalar>
Gemm<Scalar> block_of(const Gemm<Scalar>& product, const Task& task) {
    Gemm<Scalar> block = product;
    block.m = task.rows;
    block.n = task.cols;
    block.a += task.row * (product.transpose_a ? 1 : product.lda);
    block.b += task.col * (product.transpose_b ? product.ldb : 1);
    block.c += task.row * product.ldc + task.col;
    return block;
}

}  // namespace

template <class Scalar>
void GemmKernel<Scalar>::run(const Gemm<Scalar>& product) const {
    detail::BlockedProduct<Scalar>(*micro_kernel, product).run();
}

template <class Scalar>
void KernelSet::run(std::span<const Gemm<Scalar>> batch) const {
    const GemmKernel<Scalar>& kernel = of<Scalar>().gemm;
    const int threads = core::threads_for(work_of(batch));
    if (threads == 1) {
        for (const Gemm<Scalar>& product : batch) {
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

#define MOESAIC_INSTANTIATE(Scalar)     \
    template struct GemmKernel<Scalar>; \
    template void KernelSet::run(std::span<const Gemm<Scalar>>) const;
MOESAIC_INSTANTIATE(core::bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
MOESAIC_INSTANTIATE(int8)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::kernels
