// Elementwise operations by AVX2 and FMA. See detail/elementwise_table.hpp for the rules that files compiled for one
// instruction set obey.
#include <immintrin.h>

#include "kernels/detail/elementwise_table.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/words_avx2.inc"

using Vector = __m256;

/// Which lanes an operation is about: all of them, or the first ones at the end of a row.
struct All {};
struct First {
    explicit First(std::int64_t elements)
        : count(elements),
          mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(elements)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
    std::int64_t count;
    __m256i mask;
};

inline Vector load(const float* source, All) {
    return _mm256_loadu_ps(source);
}
inline Vector load(const float* source, First part) {
    return _mm256_maskload_ps(source, part.mask);
}
inline void store(float* target, Vector values, All) {
    _mm256_storeu_ps(target, values);
}
inline void store(float* target, Vector values, First part) {
    _mm256_maskstore_ps(target, part.mask, values);
}

inline Vector widen_halves(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
/// BF16 in the lower half of each word.
inline Words narrow_to_words(Vector values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounding = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, rounding), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(rounded, quiet, nan);
}
inline __m128i narrow_to_halves(Vector values) {
    const Words halves = narrow_to_words(values);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
/// Words of two halves: those of `low` and, above them, those of `high`.
inline Words join_halves(Words low, Words high) {
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
}
inline void store_words(void* target, Words words) {
    _mm256_storeu_si256(static_cast<__m256i*>(target), words);
}
inline Vector load(const std::uint16_t* source, All) {
    return widen_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
inline Vector load(const std::uint16_t* source, First part) {
    std::uint16_t padded[lanes] = {};
    __builtin_memcpy(padded, source, static_cast<std::size_t>(part.count) * sizeof(padded[0]));
    return load(padded, All());
}
inline void store(std::uint16_t* target, Vector values, All) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), narrow_to_halves(values));
}
inline void store(std::uint16_t* target, Vector values, First part) {
    std::uint16_t padded[lanes];
    store(padded, values, All());
    __builtin_memcpy(target, padded, static_cast<std::size_t>(part.count) * sizeof(padded[0]));
}

inline Vector broadcast(float value) {
    return _mm256_set1_ps(value);
}
inline Vector as_floats(Words words) {
    return _mm256_castsi256_ps(words);
}
/// `values` in the lanes of the part, `others` in the rest.
inline Vector select(All, Vector values, Vector) {
    return values;
}
inline Vector select(First part, Vector values, Vector others) {
    return _mm256_blendv_ps(others, values, _mm256_castsi256_ps(part.mask));
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return _mm256_fmadd_ps(a, b, c);
}
/// b where an operand is NaN; `minimum` too.
inline Vector maximum(Vector a, Vector b) {
    return _mm256_max_ps(a, b);
}
inline Vector minimum(Vector a, Vector b) {
    return _mm256_min_ps(a, b);
}
inline Vector square_root(Vector values) {
    return _mm256_sqrt_ps(values);
}
inline Vector round_to_integer(Vector values) {
    return _mm256_round_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// values * 2^exponents for whole exponents from -150 to 129. Each factor is in the range of FP32, and only the second
/// product can be denormal, so that the result is rounded once.
inline Vector scale_by_power_of_two(Vector values, Vector exponents) {
    const auto power = [](__m256i exponent) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
    };
    const __m256i whole = _mm256_cvtps_epi32(exponents);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return values * power(half) * power(_mm256_sub_epi32(whole, half));
}
inline float sum_of_lanes(Vector values) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float largest_of_lanes(Vector values) {
    __m128 largest = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    largest = _mm_max_ps(largest, _mm_movehl_ps(largest, largest));
    return _mm_cvtss_f32(_mm_max_ss(largest, _mm_movehdup_ps(largest)));
}

using Doubles = __m256d;
inline Doubles zero_doubles() {
    return _mm256_setzero_pd();
}
inline Doubles low_doubles(Vector values) {
    return _mm256_cvtps_pd(_mm256_castps256_ps128(values));
}
inline Doubles high_doubles(Vector values) {
    return _mm256_cvtps_pd(_mm256_extractf128_ps(values, 1));
}
inline double sum_of_lanes(Doubles values) {
    const __m128d sum = _mm_add_pd(_mm256_castpd256_pd128(values), _mm256_extractf128_pd(values, 1));
    return _mm_cvtsd_f64(_mm_add_sd(sum, _mm_unpackhi_pd(sum, sum)));
}

#include "kernels/detail/elementwise.inc"

}  // namespace

constinit const ElementwiseTable<core::bf16, float> avx2_elementwise_bf16 = table<core::bf16>;
constinit const ElementwiseTable<float, float> avx2_elementwise_float = table<float>;

}  // namespace moesaic::kernels::detail
