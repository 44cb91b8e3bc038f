// Elementwise operations by AVX-512 (F, BW, VL, DQ). See detail/elementwise_table.hpp for the rules that files compiled
// for one instruction set obey.
#include <immintrin.h>

#include "kernels/detail/elementwise_table.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/words_avx512.inc"

using Vector = __m512;

/// Which lanes an operation is about: all of them, or the first ones at the end of a row.
struct All {};
struct First {
    explicit First(std::int64_t count) : mask(static_cast<__mmask16>((1U << count) - 1U)) {}
    __mmask16 mask;
};

inline Vector load(const float* source, All) {
    return _mm512_loadu_ps(source);
}
inline Vector load(const float* source, First part) {
    return _mm512_maskz_loadu_ps(part.mask, source);
}
inline void store(float* target, Vector values, All) {
    _mm512_storeu_ps(target, values);
}
inline void store(float* target, Vector values, First part) {
    _mm512_mask_storeu_ps(target, part.mask, values);
}

inline Vector widen_halves(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
/// BF16 in the lower half of each word.
inline Words narrow_to_words(Vector values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounding = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, rounding), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
}
inline __m256i narrow_to_halves(Vector values) {
    return _mm512_cvtepi32_epi16(narrow_to_words(values));
}
/// Words of two halves: those of `low` and, above them, those of `high`.
inline Words join_halves(Words low, Words high) {
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
inline void store_words(void* target, Words words) {
    _mm512_storeu_si512(target, words);
}
inline Vector load(const std::uint16_t* source, All) {
    return widen_halves(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}
inline Vector load(const std::uint16_t* source, First part) {
    return widen_halves(_mm256_maskz_loadu_epi16(part.mask, source));
}
inline void store(std::uint16_t* target, Vector values, All) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), narrow_to_halves(values));
}
inline void store(std::uint16_t* target, Vector values, First part) {
    _mm256_mask_storeu_epi16(target, part.mask, narrow_to_halves(values));
}

inline Vector broadcast(float value) {
    return _mm512_set1_ps(value);
}
inline Vector as_floats(Words words) {
    return _mm512_castsi512_ps(words);
}
/// `values` in the lanes of the part, `others` in the rest.
inline Vector select(All, Vector values, Vector) {
    return values;
}
inline Vector select(First part, Vector values, Vector others) {
    return _mm512_mask_blend_ps(part.mask, others, values);
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return _mm512_fmadd_ps(a, b, c);
}
/// b where an operand is NaN; `minimum` too.
inline Vector maximum(Vector a, Vector b) {
    return _mm512_max_ps(a, b);
}
inline Vector minimum(Vector a, Vector b) {
    return _mm512_min_ps(a, b);
}
inline Vector square_root(Vector values) {
    return _mm512_sqrt_ps(values);
}
inline Vector round_to_integer(Vector values) {
    return _mm512_roundscale_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// values * 2^exponents for whole exponents from -150 to 129, rounded once.
inline Vector scale_by_power_of_two(Vector values, Vector exponents) {
    return _mm512_scalef_ps(values, exponents);
}
inline float sum_of_lanes(Vector values) {
    return _mm512_reduce_add_ps(values);
}
inline float largest_of_lanes(Vector values) {
    return _mm512_reduce_max_ps(values);
}

using Doubles = __m512d;
inline Doubles zero_doubles() {
    return _mm512_setzero_pd();
}
inline Doubles low_doubles(Vector values) {
    return _mm512_cvtps_pd(_mm512_castps512_ps256(values));
}
inline Doubles high_doubles(Vector values) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1));
}
inline double sum_of_lanes(Doubles values) {
    return _mm512_reduce_add_pd(values);
}

#include "kernels/detail/elementwise.inc"

}  // namespace

constinit const ElementwiseTable<core::bf16, float> avx512_elementwise_bf16 = table<core::bf16>;
constinit const ElementwiseTable<float, float> avx512_elementwise_float = table<float>;

}  // namespace moesaic::kernels::detail
