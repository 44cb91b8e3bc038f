#include "bench/random_fill.hpp"

#include "core/random.hpp"

#include <cmath>

namespace moesaic::bench {

template <class T>
void fill_random(core::MatrixView<T> out, std::uint64_t seed, std::uint64_t stream, double deviation) {
    constexpr index_t values_per_block = 8;  // 16 random bits each: more than BF16 can hold
    const core::CounterRandom random(seed, stream);
    const auto scale = static_cast<float>(deviation * std::sqrt(12.0) / 65536.0);
    const index_t blocks = (out.cols() + values_per_block - 1) / values_per_block;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < out.rows(); ++row) {
        for (index_t b = 0; b < blocks; ++b) {
            const auto words = random.block(static_cast<std::uint64_t>(row * blocks + b));
            const index_t begin = b * values_per_block;
            const index_t count = std::min(values_per_block, out.cols() - begin);
            for (index_t i = 0; i < count; ++i) {
                const std::uint32_t bits = words[static_cast<std::size_t>(i / 2)] >> (i % 2 == 0 ? 0U : 16U);
                const float centred = static_cast<float>(bits & 0xffffU) - 32767.5F;
                out(row, begin + i) = static_cast<T>(core::widen(core::bf16(scale * centred)));
            }
        }
    }
}

template void fill_random(core::MatrixView<core::bf16>, std::uint64_t, std::uint64_t, double);
template void fill_random(core::MatrixView<float>, std::uint64_t, std::uint64_t, double);

}  // namespace moesaic::bench
