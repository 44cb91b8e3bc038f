// VDPBF16PS on registers: 32 products of BF16 each. See micro_kernel.hpp for the rules that files compiled for
// one instruction set obey.
#include <immintrin.h>

#include "kernels/detail/peak_loop.hpp"

namespace moesaic::kernels::detail {

float avx512_bf16_peak(std::int64_t rounds) {
    constexpr int sums = 16;
    __m512 sum[sums];
    for (int i = 0; i < sums; ++i) {
        sum[i] = _mm512_set1_ps(0x1p-10F * static_cast<float>(i));  // all different: equal sums may be computed once
    }
    // Pairs of 0.75 and -0.625 by themselves: every lane of every sum grows by the same, exact amount.
    const __m512i words = _mm512_set1_epi32(static_cast<int>(0xbf203f40U));
    __m512bh pairs;
    __builtin_memcpy(&pairs, &words, sizeof(pairs));
    for (std::int64_t round = 0; round < rounds; ++round) {
        for (__m512& s : sum) {
            s = _mm512_dpbf16_ps(s, pairs, pairs);
        }
    }
    for (int i = 1; i < sums; ++i) {
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    }
    return _mm512_cvtss_f32(sum[0]);
}

}  // namespace moesaic::kernels::detail
