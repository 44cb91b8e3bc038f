#include "core/random_fill.hpp"

#include "core/random.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::core {

template <class T>
void fill_random(MatrixView<T> out, const MatrixSlice& part, std::uint64_t seed, std::uint64_t stream,
                 double deviation) {
    constexpr index_t values_per_block = 8;  // 16 random bits each: more than BF16 can hold
    const CounterRandom random(seed, stream);
    const auto scale = static_cast<float>(deviation * std::sqrt(12.0) / 65536.0);
    const index_t blocks_of_row = (part.cols + values_per_block - 1) / values_per_block;
    const index_t col_end = part.col_begin + out.cols();
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < out.rows(); ++row) {
        for (index_t b = part.col_begin / values_per_block; b * values_per_block < col_end; ++b) {
            const auto words = random.block(static_cast<std::uint64_t>((part.row_begin + row) * blocks_of_row + b));
            const index_t begin = b * values_per_block;
            const index_t end = std::min(begin + values_per_block, col_end);
            for (index_t col = std::max(begin, part.col_begin); col < end; ++col) {
                const index_t i = col - begin;
                const std::uint32_t bits = words[static_cast<std::size_t>(i / 2)] >> (i % 2 == 0 ? 0U : 16U);
                const float centred = static_cast<float>(bits & 0xffffU) - 32767.5F;
                out(row, col - part.col_begin) = static_cast<T>(widen(bf16(scale * centred)));
            }
        }
    }
}

template void fill_random(MatrixView<bf16>, const MatrixSlice&, std::uint64_t, std::uint64_t, double);
template void fill_random(MatrixView<float>, const MatrixSlice&, std::uint64_t, std::uint64_t, double);

}  // namespace moesaic::core
