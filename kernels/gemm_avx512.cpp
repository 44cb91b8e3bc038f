// Products by AVX-512 (F, BW, VL, DQ) in FP32; BF16 operands are widened. See micro_kernel.hpp for the rules
// that files compiled for one instruction set obey.
#include <immintrin.h>

#include "kernels/micro_kernel.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/words_avx512.inc"

constexpr int panel_rows = 8;
constexpr int panel_cols = 32;
constexpr int few_rows = 4;
constexpr int few_vectors = 4;
using Vector = __m512;

inline Vector load(const float* source) {
    return _mm512_loadu_ps(source);
}
inline void store(float* target, Vector values) {
    _mm512_storeu_ps(target, values);
}
inline Vector broadcast(float value) {
    return _mm512_set1_ps(value);
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline float sum_of_lanes(Vector values) {
    return _mm512_reduce_add_ps(values);
}

inline __mmask16 first_lanes(std::int64_t count) {
    return static_cast<__mmask16>((1U << count) - 1U);
}
inline Vector load_first(const float* source, std::int64_t count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), source);
}
inline void store_first(float* target, Vector values, std::int64_t count) {
    _mm512_mask_storeu_ps(target, first_lanes(count), values);
}
inline void store_halves(float* low, float* high, Vector values) {
    _mm256_storeu_ps(low, _mm512_castps512_ps256(values));
    _mm256_storeu_ps(high, _mm512_extractf32x8_ps(values, 1));
}

inline Vector widen(const float* source) {
    return load(source);
}
inline Vector widen(const std::uint16_t* source) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline Vector as_floats(Words words) {
    return _mm512_castsi512_ps(words);
}
inline Vector even_floats(Words words) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
inline Vector odd_floats(Words words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
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
    .panel_depth = 256,
    .left_block_bytes = 1U << 20U,
    .pack_left = pack<panel_rows, Element>,
    .pack_right = pack<panel_cols, Element>,
    .multiply = multiply,
    .few_rows = few_rows,
    .multiply_few_rows = multiply_few_rows<Element>,
    .begin = nullptr,
    .end = nullptr,
};

}  // namespace

void multiply_few_rows_avx512(std::int64_t k, const float* left, const Operand<std::uint16_t>& right, std::int64_t step,
                              const ResultBlock<float>& result) {
    multiply_few_rows(k, left, right, step, result);
}

constinit const FloatKernel avx512_float = description<float>;
constinit const Bf16Kernel avx512_bf16_by_widening = description<std::uint16_t>;

}  // namespace moesaic::kernels::detail
