// Products of BF16 by AVX512_BF16, which multiplies pairs along k and sums in FP32. Panels are those of AMX. Compiled
// for this instruction set: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512_bf16 {
namespace {

#include "kernels/detail/vector_avx512.inc"

constexpr int peak_sums = 16;

#include "kernels/detail/peak_loops.inc"
#include "kernels/detail/prefetch.inc"

constexpr int half_rows = 8;  // 8 x 32 accumulators at a time
constexpr int panel_vectors = 2;
constexpr std::int64_t pairs_per_block = 16;
constexpr std::int64_t block_bytes = 2048;

inline __m512bh pairs(__m512i words) {
    __m512bh result;
    __builtin_memcpy(&result, &words, sizeof(result));
    return result;
}

/// `left` starts at the first of `rows` vectors within blocks [32 vectors][32]; `right` at the first of 16 columns
/// within blocks [2][16 pairs][16][2]. `side` is none, or has blocks to fetch.
template <int rows, int vectors>
void multiply_rows(const StripProduct<float>& product, const char* left, const char* right, const SideWork* side,
                   float* c) {
    const auto* fetch = side == nullptr ? nullptr : static_cast<const char*>(side->fetch.first);
    __m512 sums[half_rows][panel_vectors];
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            sums[row][v] = _mm512_setzero_ps();
        }
    }
    for (std::int64_t k = 0; k < product.term.k; k += kernel_block, left += block_bytes, right += block_bytes) {
        if (fetch != nullptr) {
            prefetch_to_l2(fetch, side->first_line, side->last_line);
            fetch += side->fetch.step;
        }
        for (std::int64_t pair = 0; pair < pairs_per_block; ++pair) {
            __m512bh columns[panel_vectors];
            for (int v = 0; v < vectors; ++v) {
                columns[v] = pairs(_mm512_loadu_si512(right + v * (block_bytes / 2) + pair * 64));
            }
            for (int row = 0; row < rows; ++row) {
                int factor = 0;
                __builtin_memcpy(&factor, left + row * 64 + pair * 4, sizeof(factor));
                const __m512bh factors = pairs(_mm512_set1_epi32(factor));
                for (int v = 0; v < vectors; ++v) {
                    sums[row][v] = _mm512_dpbf16_ps(sums[row][v], factors, columns[v]);
                }
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            float* target = c + row * product.stride + v * lanes;
            const __m512 sum = sums[row][v];
            _mm512_storeu_ps(target, product.accumulate ? _mm512_add_ps(_mm512_loadu_ps(target), sum) : sum);
        }
    }
}

/// Calls the instance of a row count known at compile time.
template <int rows, int vectors>
void multiply_at_most(std::int64_t count, const StripProduct<float>& product, const char* left, const SideWork* side,
                      float* c) {
    if (count >= rows) {
        multiply_rows<rows, vectors>(product, left, static_cast<const char*>(product.term.right), side, c);
    } else if constexpr (rows > 1) {
        multiply_at_most<rows - 1, vectors>(count, product, left, side, c);
    }
}

void multiply(const StripProduct<float>& product) {
    const auto* left = static_cast<const char*>(product.term.left);
    const SideWork* side = product.side != nullptr && product.side->fetch.count > 0 ? product.side : nullptr;
    for (std::int64_t row = 0; row < product.rows; row += half_rows, left += half_rows * 64, side = nullptr) {
        float* c = product.c + row * product.stride;
        if (product.cols > lanes) {
            multiply_at_most<half_rows, 2>(product.rows - row, product, left, side, c);
        } else {
            multiply_at_most<half_rows, 1>(product.rows - row, product, left, side, c);
        }
    }
    if (product.more.k > 0) {
        multiply({product.rows, product.cols, product.more, product.c, product.stride, true});
    }
}

/// Pairs of 0.75 and -0.625 by themselves: every lane of every sum grows by the same, exact amount.
float multiply_pairs_in_registers(std::int64_t rounds) {
    const __m512bh factors = pairs(_mm512_set1_epi32(static_cast<int>(0xbf203f40U)));
    return repeat_in_registers(rounds, [=](Vector sum) { return _mm512_dpbf16_ps(sum, factors, factors); });
}

}  // namespace

constinit const micro_kernel_t<bf16> gemm_bf16 = {
    .block_depth = kernel_block,
    .left_bytes = block_bytes,
    .right_bytes = block_bytes,
    .left_is_plain = true,
    .right_is_pairs = true,
    .panel_depth = 512,
    .unpacked_depth = 512,
    .left_block_bytes = 1U << 20U,
    .pack_left = pack_vectors_of_32,
    .pack_right = pack_pairs,
    .multiply = multiply,
    .few_rows = 4,
    .multiply_few_rows = avx512::widen_and_multiply_few_rows,
    .state = {},
};
constinit const Peak peak = {2.0 * 2 * lanes * peak_sums, multiply_pairs_in_registers, read_memory};

}  // namespace moesaic::kernels::detail::avx512_bf16
