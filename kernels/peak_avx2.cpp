// FMA on registers, 8 lanes. See micro_kernel.hpp for the rules that files compiled for one instruction set
// obey.
#include <immintrin.h>

#include "kernels/detail/peak_loop.hpp"

namespace moesaic::kernels::detail {

float avx2_peak(std::int64_t rounds) {
    constexpr int sums = 12;  // two FMA units of latency 4 or 5 need ten
    __m256 sum[sums];
    for (int i = 0; i < sums; ++i) {
        sum[i] = _mm256_set1_ps(0.001F * static_cast<float>(i));  // all different: equal sums may be computed once
    }
    const __m256 a = _mm256_set1_ps(0.999F);
    const __m256 b = _mm256_set1_ps(1.001F);
    for (std::int64_t round = 0; round < rounds; ++round) {
        for (__m256& s : sum) {
            s = _mm256_fmadd_ps(s, a, b);
        }
    }
    for (int i = 1; i < sums; ++i) {
        sum[0] = _mm256_add_ps(sum[0], sum[i]);
    }
    return _mm256_cvtss_f32(sum[0]);
}

float avx2_read(const float* data, std::int64_t count) {
    constexpr int lanes = 8;
    constexpr int streams = 4;  // from as many places at once: more pages are prefetched
    const std::int64_t length = count / streams / lanes * lanes;
    __m256 sum[streams];
    for (__m256& s : sum) {
        s = _mm256_setzero_ps();
    }
    for (std::int64_t i = 0; i < length; i += lanes) {
        for (int stream = 0; stream < streams; ++stream) {
            sum[stream] = _mm256_add_ps(sum[stream], _mm256_loadu_ps(data + stream * length + i));
        }
    }
    return _mm256_cvtss_f32(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

}  // namespace moesaic::kernels::detail
