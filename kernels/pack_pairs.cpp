// Packing of BF16 operands for instructions that multiply pairs along k (AVX512_BF16, AMX). Compiled for AVX-512: see
// micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail {
namespace {

#include "kernels/detail/vector_avx512.inc"

#include "kernels/detail/interleave_rows.inc"
#include "kernels/detail/transpose_words.inc"

constexpr std::int64_t step = kernel_block;  // elements of k in one tile
constexpr std::int64_t tile = lanes * step;  // elements of one tile

constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

/// 32 elements of BF16, zeros from `count` on.
inline Words load_elements(const std::uint16_t* source, std::int64_t count) {
    if (count >= step) {
        return _mm512_loadu_si512(source);
    }
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1U << count) - 1U), source);
}

/// Word j = the pair (first[j], second[j]) for j < count, else zeros; `second` may be null, standing for zeros.
inline Words load_pairs(const std::uint16_t* first, const std::uint16_t* second, std::int64_t count) {
    const auto mask = static_cast<__mmask16>(count >= lanes ? 0xffffU : (1U << count) - 1U);
    const Words low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, first));
    if (second == nullptr) {
        return low;
    }
    const Words high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/// One tile as 16 words per vector: rows[i] = 32 elements of vector i.
inline void load_vectors(const std::uint16_t* source, std::int64_t stride, std::int64_t count, std::int64_t depth,
                         Words (&rows)[lanes]) {
    for (int i = 0; i < lanes; ++i) {
        rows[i] = i < count ? load_elements(source + i * stride, depth) : _mm512_setzero_si512();
    }
}

/// One tile as 16 pairs of k: rows[p] = elements 2p and 2p + 1 of 16 vectors, side by side.
inline void load_rows_of_pairs(const std::uint16_t* source, std::int64_t stride, std::int64_t count, std::int64_t depth,
                               Words (&rows)[lanes]) {
    for (int pair = 0; pair < lanes; ++pair) {
        const std::int64_t kk = 2 * pair;
        const std::uint16_t* first = source + kk * stride;
        rows[pair] =
            kk < depth ? load_pairs(first, kk + 1 < depth ? first + stride : nullptr, count) : _mm512_setzero_si512();
    }
}

inline void store_tile(std::uint16_t* target, const Words (&rows)[lanes]) {
    for (int row = 0; row < lanes; ++row) {
        _mm512_storeu_si512(target + row * step, rows[row]);
    }
}

inline void transpose_and_store_tile(std::uint16_t* target, const char* source, std::int64_t stride_bytes) {
    Words words[lanes];
    transpose_words(source, stride_bytes, words);
    store_tile(target, words);
}

/// Fills blocks of two tiles, 16 vectors each; `transposed`: the tile's layout is not that of the storage.
template <bool (*transposed)(bool k_contiguous)>
void pack_tiles(void* strip, const Operand<std::uint16_t>& operand) {
    const bool contiguous = operand.k_contiguous;
    for (std::int64_t i = 0; i < operand.count; i += lanes) {
        const std::int64_t count = min_of(lanes, operand.count - i);
        auto* target = static_cast<std::uint16_t*>(strip) + i / lanes * tile;
        for (std::int64_t kk = 0; kk < operand.k; kk += step, target += 2 * tile) {
            const std::int64_t depth = min_of(step, operand.k - kk);
            const std::uint16_t* source =
                operand.data + kk / step * operand.step + (contiguous ? i * operand.stride : i);
            if (transposed(contiguous) && contiguous && count == lanes && depth == step) {
                transpose_and_store_tile(target, reinterpret_cast<const char*>(source), 2 * operand.stride);
                continue;
            }
            Words rows[lanes];
            if (contiguous) {
                load_vectors(source, operand.stride, count, depth, rows);
            } else {
                load_rows_of_pairs(source, operand.stride, count, depth, rows);
            }
            if (transposed(contiguous)) {
                transpose_and_store_tile(target, reinterpret_cast<const char*>(rows), sizeof(Words));
            } else {
                store_tile(target, rows);
            }
        }
    }
}

constexpr bool when_strided(bool k_contiguous) {
    return !k_contiguous;
}
constexpr bool when_contiguous(bool k_contiguous) {
    return k_contiguous;
}

}  // namespace

void pack_vectors_of_32(void* strip, const Operand<std::uint16_t>& operand) {
    pack_tiles<when_strided>(strip, operand);
}

void pack_pairs(void* strip, const Operand<std::uint16_t>& operand) {
    if (!operand.k_contiguous && operand.count == kernel_block && operand.k % kernel_block == 0) {
        auto* target = static_cast<std::uint16_t*>(strip);
        for (std::int64_t kk = 0; kk < operand.k; kk += kernel_block, target += 2 * tile) {
            interleave_rows(reinterpret_cast<const char*>(operand.data + kk / step * operand.step), 2 * operand.stride,
                            reinterpret_cast<char*>(target), 0, lanes);
        }
        return;
    }
    pack_tiles<when_contiguous>(strip, operand);
}

}  // namespace moesaic::kernels::detail
