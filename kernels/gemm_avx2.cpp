// Products by AVX2 and FMA in FP32; BF16 operands are widened. See micro_kernel.hpp for the rules that files
// compiled for one instruction set obey.
#include <immintrin.h>

#include "kernels/micro_kernel.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/words_avx2.inc"

constexpr int panel_rows = 4;
constexpr int few_rows = 4;
constexpr int few_vectors = 2;
constexpr int panel_cols = 16;
using Vector = __m256;

inline Vector load(const float* source) {
    return _mm256_loadu_ps(source);
}
inline void store(float* target, Vector values) {
    _mm256_storeu_ps(target, values);
}
inline Vector broadcast(float value) {
    return _mm256_set1_ps(value);
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return _mm256_fmadd_ps(a, b, c);
}

inline float sum_of_lanes(Vector values) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline __m256i first_lanes(std::int64_t count) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), index);
}
inline Vector load_first(const float* source, std::int64_t count) {
    return _mm256_maskload_ps(source, first_lanes(count));
}
inline void store_first(float* target, Vector values, std::int64_t count) {
    _mm256_maskstore_ps(target, first_lanes(count), values);
}
inline void store_halves(float* low, float* high, Vector values) {
    _mm_storeu_ps(low, _mm256_castps256_ps128(values));
    _mm_storeu_ps(high, _mm256_extractf128_ps(values, 1));
}

inline Vector widen(const float* source) {
    return load(source);
}
inline Vector widen(const std::uint16_t* source) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

inline Vector as_floats(Words words) {
    return _mm256_castsi256_ps(words);
}
inline Vector even_floats(Words words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline Vector odd_floats(Words words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
}

#include "kernels/detail/transpose_words.inc"
#include "kernels/detail/vector_kernels.inc"

template <class Element>
constexpr MicroKernel<Element, float> description = {
    .left_bytes = block_size* block_size * sizeof(float),
    .right_bytes = block_size* block_size * sizeof(float),
    .packs_ahead = false,
    .adds_terms = false,
    .left_is_plain = false,
    .panel_depth = 128,
    .left_block_bytes = 1U << 18U,
    .pack_left = pack<panel_rows, Element>,
    .pack_right = pack<panel_cols, Element>,
    .multiply = multiply,
    .few_rows = few_rows,
    .multiply_few_rows = multiply_few_rows<Element>,
    .begin = nullptr,
    .end = nullptr,
};

}  // namespace

constinit const FloatKernel avx2_float = description<float>;
constinit const Bf16Kernel avx2_bf16 = description<std::uint16_t>;

}  // namespace moesaic::kernels::detail
