// Packing of stored blocks of whole numbers, four rows at a time. Compiled for AVX-512 VBMI: see micro_kernel.hpp for
// the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail {
namespace {

constexpr std::int64_t lanes = 16;
constexpr std::int64_t row_bytes = 64;  // of a tile: 16 quads
constexpr std::int64_t tile_bytes = 1024;

}  // namespace

void pack_quads_of_blocks(void* strip, const Operand<int8>& operand) {
    if (operand.k_contiguous || operand.stride != kernel_block || operand.count != kernel_block ||
        operand.k % kernel_block != 0) {
        pack_quads(strip, operand);
        return;
    }
    alignas(64) std::uint8_t order[row_bytes];  // of 16 columns: their bytes of four rows
    for (int i = 0; i < row_bytes; ++i) {
        order[i] = static_cast<std::uint8_t>(i % 4 * kernel_block + i / 4);
    }
    const __m512i low = _mm512_load_si512(order);
    const __m512i high = _mm512_add_epi8(low, _mm512_set1_epi8(lanes));
    const std::int64_t blocks = operand.k / kernel_block;
    constexpr std::int64_t quads = kernel_block / 4;
    auto* target = static_cast<char*>(strip);
    for (std::int64_t b = 0; b < blocks; ++b) {
        const int8* rows = operand.data + b * operand.step;
        char* half = target + b / 2 * 2 * tile_bytes + b % 2 * quads * row_bytes;
        for (std::int64_t quad = 0; quad < quads; ++quad, rows += 4 * kernel_block, half += row_bytes) {
            const __m512i first = _mm512_loadu_si512(rows);
            const __m512i second = _mm512_loadu_si512(rows + 2 * kernel_block);
            _mm512_storeu_si512(half, _mm512_permutex2var_epi8(first, low, second));
            _mm512_storeu_si512(half + tile_bytes, _mm512_permutex2var_epi8(first, high, second));
        }
    }
    if (blocks % 2 != 0) {
        char* half = target + blocks / 2 * 2 * tile_bytes + quads * row_bytes;
        for (std::int64_t tile = 0; tile < 2; ++tile, half += tile_bytes) {
            __builtin_memset(half, 0, static_cast<std::size_t>(quads * row_bytes));
        }
    }
}

}  // namespace moesaic::kernels::detail
