// Products of BF16 by AVX512_BF16, which multiplies pairs along k and sums in FP32. Panels are those of AMX. See
// detail/micro_kernel.hpp for the rules that files compiled for one instruction set obey.
#include <immintrin.h>

#include "kernels/detail/micro_kernel.hpp"

namespace moesaic::kernels::detail {
namespace {

constexpr int lanes = 16;
constexpr int half_rows = 8;  // 8 x 32 accumulators at a time
constexpr int panel_vectors = 2;
constexpr std::int64_t pairs_per_tile = 16;
constexpr std::int64_t tile_bytes = 1024;

inline __m512bh pairs(__m512i words) {
    __m512bh result;
    __builtin_memcpy(&result, &words, sizeof(result));
    return result;
}

inline void update(float* c, __m512 sum, std::int64_t count, const ResultBlock<float>& result) {
    const auto mask = static_cast<__mmask16>(count >= lanes ? 0xffffU : count > 0 ? (1U << count) - 1U : 0U);
    const __m512 alpha = _mm512_set1_ps(result.alpha);
    const __m512 value =
        result.accumulate ? _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, c)) : _mm512_mul_ps(sum, alpha);
    _mm512_mask_storeu_ps(c, mask, value);
}

/// `left` starts at the first of `rows` vectors within their tiles: [k / 32][16][32]; right panels: [k /
/// 32][16][16][2].
template <int rows, int vectors>
void multiply_rows(std::int64_t tiles, const char* left, const char* right, float* c,
                   const ResultBlock<float>& result) {
    __m512 sums[half_rows][panel_vectors];
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            sums[row][v] = _mm512_setzero_ps();
        }
    }
    const char* right_panels[panel_vectors] = {right, right + tiles * tile_bytes};
    for (std::int64_t t = 0; t < tiles; ++t) {
        for (std::int64_t pair = 0; pair < pairs_per_tile; ++pair) {
            __m512bh columns[panel_vectors];
            for (int v = 0; v < vectors; ++v) {
                columns[v] = pairs(_mm512_loadu_si512(right_panels[v] + t * tile_bytes + pair * 64));
            }
            for (int row = 0; row < rows; ++row) {
                int factor = 0;
                __builtin_memcpy(&factor, left + t * tile_bytes + row * 64 + pair * 4, sizeof(factor));
                const __m512bh factors = pairs(_mm512_set1_epi32(factor));
                for (int v = 0; v < vectors; ++v) {
                    sums[row][v] = _mm512_dpbf16_ps(sums[row][v], factors, columns[v]);
                }
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            update(c + row * result.stride + v * lanes, sums[row][v], result.cols - v * lanes, result);
        }
    }
}

/// Calls the instance of a row count known at compile time.
template <int rows, int vectors>
void multiply_at_most(std::int64_t count, std::int64_t tiles, const char* left, const char* right, float* c,
                      const ResultBlock<float>& result) {
    if (count >= rows) {
        multiply_rows<rows, vectors>(tiles, left, right, c, result);
    } else if constexpr (rows > 1) {
        multiply_at_most<rows - 1, vectors>(count, tiles, left, right, c, result);
    }
}

void multiply(std::int64_t k, const void* left_panel, const void* right_panel, const ResultBlock<float>& result) {
    const auto* left = static_cast<const char*>(left_panel);
    const auto* right = static_cast<const char*>(right_panel);
    const std::int64_t tiles = (k + 31) / 32;
    for (std::int64_t row = 0; row < result.rows; row += half_rows, left += half_rows * 64) {
        float* c = result.c + row * result.stride;
        if (result.cols > lanes) {
            multiply_at_most<half_rows, 2>(result.rows - row, tiles, left, right, c, result);
        } else {
            multiply_at_most<half_rows, 1>(result.rows - row, tiles, left, right, c, result);
        }
    }
}

}  // namespace

constinit const Bf16Kernel avx512_bf16_pairs = {
    .rows = 16,
    .cols = 32,
    .depth_step = 32,
    .panel_depth = 512,
    .block_depth = 1024,
    .left_block_bytes = 1U << 20U,
    .packed_size = sizeof(std::uint16_t),
    .pack_left = pack_vectors_of_32,
    .pack_right = pack_pairs,
    .multiply = multiply,
    .few_rows = 4,
    .multiply_few_rows = multiply_few_rows_avx512,
    .begin = nullptr,
    .end = nullptr,
};

}  // namespace moesaic::kernels::detail
