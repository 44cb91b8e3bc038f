#include "train/team_memory.hpp"

#include <omp.h>

#include <algorithm>

namespace moesaic::train {

TeamMemory::TeamMemory(index_t arrays, index_t bytes_of_each)
    : values_(arrays, bytes_of_each / static_cast<index_t>(sizeof(float))) {
#pragma omp parallel
    for (index_t array = 0; array < arrays; ++array) {
        const auto share = share_of_thread(array);
        std::fill(share.begin(), share.end(), 1.0F);
    }
}

std::span<float> TeamMemory::share_of_thread(index_t array) {
    const index_t thread = omp_get_thread_num();
    const index_t threads = omp_get_num_threads();
    const index_t begin = values_.cols() * thread / threads;
    const index_t end = values_.cols() * (thread + 1) / threads;
    return values_.view().row(array).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

void TeamMemory::read(const kernels::PeakLoop& loop, index_t array, index_t times) {
    float sum = 0;
#pragma omp parallel reduction(+ : sum)
    {
        const auto share = share_of_thread(array);
        for (index_t time = 0; time < times; ++time) {
            sum += loop.read(share.data(), static_cast<std::int64_t>(share.size()));
        }
    }
    volatile float kept = sum;  // or the reads could be left out
    static_cast<void>(kept);
}

}  // namespace moesaic::train
