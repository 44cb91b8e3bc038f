// VDPBF16PS on registers: 32 products of BF16 each. See micro_kernel.hpp for the rules that files compiled for
// one instruction set obey.
#include <immintrin.h>

#include "kernels/detail/peak_loop.hpp"

namespace moesaic::kernels::detail {

float avx512_bf16_peak(std::int64_t rounds) {
    constexpr int sums = 16;
    __m512 sum[sums];
    for (int i = 0; i < sums; ++i) {
        sum[i] = _mm512_set1_ps(0.001F * static_cast<float>(i));  // all different: equal sums may be computed once
    }
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5F), _mm512_set1_ps(-0.5F));
    const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.5F), _mm512_set1_ps(1.25F));
    for (std::int64_t round = 0; round < rounds; ++round) {
        for (__m512& s : sum) {
            s = _mm512_dpbf16_ps(s, a, b);
        }
    }
    for (int i = 1; i < sums; ++i) {
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    }
    return _mm512_cvtss_f32(sum[0]);
}

}  // namespace moesaic::kernels::detail
