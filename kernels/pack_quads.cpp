// Packing of operands of whole numbers for instructions that multiply four along k (AVX512_VNNI, AMX). Compiled for
// AVX-512: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/vector_avx512.inc"

#include "kernels/detail/transpose_words.inc"

constexpr std::int64_t depth = 64;                  // elements of k in one tile
constexpr std::int64_t tile_bytes = lanes * depth;  // 16 vectors, or 16 quads of 16 vectors

constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

/// Elements kk to kk + 31 of the vector at `source`, whose elements are contiguous, zeros from `count` on.
inline __m256i load_elements(const int8* source, std::int64_t count) {
    if (count >= kernel_block) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    }
    return count <= 0 ? _mm256_setzero_si256()
                      : _mm256_maskz_loadu_epi8(static_cast<__mmask32>((1U << count) - 1U), source);
}

/// Up to 16 vectors of 64 elements of k as 64 bytes each: rows[i] = elements kk to kk + 63 of vector i.
inline void load_vectors(const Operand<int8>& operand, std::int64_t i, std::int64_t kk, Words (&rows)[lanes]) {
    const std::int64_t count = min_of(lanes, operand.count - i);
    const int8* first = operand.data + kk / kernel_block * operand.step + i * operand.stride;
    for (int row = 0; row < lanes; ++row) {
        if (row < count) {
            const int8* source = first + row * operand.stride;
            const __m256i high = kk + kernel_block < operand.k
                                     ? load_elements(source + operand.step, operand.k - kk - kernel_block)
                                     : _mm256_setzero_si256();
            rows[row] = _mm512_inserti64x4(_mm512_castsi256_si512(load_elements(source, operand.k - kk)), high, 1);
        } else {
            rows[row] = _mm512_setzero_si512();
        }
    }
}

/// Elements kk to kk + 3 of 16 vectors, of which element kk of all is contiguous, side by side: 64 bytes.
inline Words load_quad(const Operand<int8>& operand, std::int64_t i, std::int64_t kk) {
    const std::int64_t count = min_of(lanes, operand.count - i);
    const auto mask = static_cast<__mmask16>((1U << count) - 1U);
    __m128i rows[4];
    for (int row = 0; row < 4; ++row) {
        const std::int64_t k = kk + row;
        const int8* source = operand.data + k / kernel_block * operand.step + k % kernel_block * operand.stride + i;
        rows[row] = k < operand.k ? _mm_maskz_loadu_epi8(mask, source) : _mm_setzero_si128();
    }
    const __m128i low01 = _mm_unpacklo_epi8(rows[0], rows[1]);
    const __m128i high01 = _mm_unpackhi_epi8(rows[0], rows[1]);
    const __m128i low23 = _mm_unpacklo_epi8(rows[2], rows[3]);
    const __m128i high23 = _mm_unpackhi_epi8(rows[2], rows[3]);
    Words quad = _mm512_castsi128_si512(_mm_unpacklo_epi16(low01, low23));
    quad = _mm512_inserti32x4(quad, _mm_unpackhi_epi16(low01, low23), 1);
    quad = _mm512_inserti32x4(quad, _mm_unpacklo_epi16(high01, high23), 2);
    return _mm512_inserti32x4(quad, _mm_unpackhi_epi16(high01, high23), 3);
}
inline void load_quads(const Operand<int8>& operand, std::int64_t i, std::int64_t kk, Words (&rows)[lanes]) {
    for (int quad = 0; quad < lanes; ++quad) {
        rows[quad] = load_quad(operand, i, kk + 4 * quad);
    }
}

/// Fills blocks of two tiles, 16 vectors each, from rows of 64 elements of a vector or of quads of 16 vectors;
/// `as_quads`: which of both a tile has.
template <bool as_quads, char offset>
void pack_tiles(void* strip, const Operand<int8>& operand) {
    const Words above_zero = _mm512_set1_epi8(offset);
    for (std::int64_t i = 0; i < operand.count; i += lanes) {
        char* target = static_cast<char*>(strip) + i / lanes * tile_bytes;
        for (std::int64_t kk = 0; kk < operand.k; kk += depth, target += 2 * tile_bytes) {
            Words rows[lanes];
            if (operand.k_contiguous) {
                load_vectors(operand, i, kk, rows);
            } else {
                load_quads(operand, i, kk, rows);
            }
            if (operand.k_contiguous == as_quads) {
                Words words[lanes];
                transpose_words(reinterpret_cast<const char*>(rows), sizeof(Words), words);
                __builtin_memcpy(rows, words, sizeof(rows));
            }
            for (int row = 0; row < lanes; ++row) {
                _mm512_storeu_si512(target + row * depth, _mm512_xor_si512(rows[row], above_zero));
            }
        }
    }
}

}  // namespace

void pack_vectors_of_64(void* strip, const Operand<int8>& operand) {
    pack_tiles<false, 0>(strip, operand);
}

void pack_vectors_of_64_above_zero(void* strip, const Operand<int8>& operand) {
    pack_tiles<false, static_cast<char>(0x80)>(strip, operand);
}

void pack_quads(void* strip, const Operand<int8>& operand) {
    pack_tiles<true, 0>(strip, operand);
}

}  // namespace moesaic::kernels::detail
