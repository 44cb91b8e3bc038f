// Products of BF16 by AMX tiles: blocks of 32 x 32 sums in four tiles. See detail/micro_kernel.hpp for the rules that
// files compiled for one instruction set obey.
#include <immintrin.h>

#include "kernels/detail/micro_kernel.hpp"

namespace moesaic::kernels::detail {
namespace {

constexpr std::int64_t tile_rows = 16;
constexpr std::int64_t tile_bytes = 1024;
constexpr std::int64_t row_bytes = 64;

/// Operand of LDTILECFG (Intel SDM volume 1, chapter "Programming with Intel AMX").
struct TileConfiguration {
    std::uint8_t palette;
    std::uint8_t start_row;
    std::uint8_t reserved[14];
    std::uint16_t bytes_per_row[16];
    std::uint8_t rows[16];
};
static_assert(sizeof(TileConfiguration) == 64);

/// All eight tiles are 16 x 64 bytes: panels are padded, so that no edge needs another shape.
constinit const TileConfiguration full_tiles = {
    .palette = 1,
    .start_row = 0,
    .reserved = {},
    .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

void configure_tiles() {
    // The intrinsic of GCC 12 declares only the first 8 bytes as read.
    asm volatile("ldtilecfg %0" ::"m"(full_tiles));
}

/// Tile state makes every context switch save 8 KiB more and keeps cores from sleeping deeply, so it ends with a
/// product.
void release_tiles() {
    _tile_release();
}

/// Tiles 0-3 hold the sums [2][2], 4 and 5 the left operand, 6 and 7 the right one.
inline void load_sums(const float* c, std::int64_t stride) {
    _tile_loadd(0, c, stride * 4);
    _tile_loadd(1, c + tile_rows, stride * 4);
    _tile_loadd(2, c + tile_rows * stride, stride * 4);
    _tile_loadd(3, c + tile_rows * stride + tile_rows, stride * 4);
}

inline void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

inline void store_sums(float* c, std::int64_t stride) {
    _tile_stored(0, c, stride * 4);
    _tile_stored(1, c + tile_rows, stride * 4);
    _tile_stored(2, c + tile_rows * stride, stride * 4);
    _tile_stored(3, c + tile_rows * stride + tile_rows, stride * 4);
}

/// Sums of a block with one or two tiles in each direction; tiles that the block does not reach are left as they are.
template <bool two_rows, bool two_cols>
void add_products(std::int64_t tiles, const char* left, const char* right) {
    const char* lower = left + tiles * tile_bytes;
    const char* farther = right + tiles * tile_bytes;
    for (std::int64_t offset = 0; offset < tiles * tile_bytes; offset += tile_bytes) {
        _tile_loadd(4, left + offset, row_bytes);
        _tile_loadd(6, right + offset, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (two_cols) {
            _tile_loadd(7, farther + offset, row_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (two_rows) {
            _tile_loadd(5, lower + offset, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (two_cols) {
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
}

/// Adds the scaled sums of an edge block, or of one whose alpha is not 1.
void write_sums(const float* sums, const ResultBlock<float>& result) {
    const __m512 alpha = _mm512_set1_ps(result.alpha);
    for (std::int64_t row = 0; row < result.rows; ++row) {
        for (std::int64_t col = 0; col < result.cols; col += tile_rows) {
            const std::int64_t count = result.cols - col;
            const auto mask = static_cast<__mmask16>(count >= tile_rows ? 0xffffU : (1U << count) - 1U);
            float* c = result.c + row * result.stride + col;
            const __m512 sum = _mm512_load_ps(sums + row * 2 * tile_rows + col);
            const __m512 value = result.accumulate ? _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, c))
                                                   : _mm512_mul_ps(sum, alpha);
            _mm512_mask_storeu_ps(c, mask, value);
        }
    }
}

void multiply(std::int64_t k, const void* left_panels, const void* right_panels, const ResultBlock<float>& result) {
    const auto* left = static_cast<const char*>(left_panels);
    const auto* right = static_cast<const char*>(right_panels);
    const std::int64_t tiles = (k + 31) / 32;
    const bool two_rows = result.rows > tile_rows;
    const bool two_cols = result.cols > tile_rows;
    const bool in_place = result.rows == 2 * tile_rows && result.cols == 2 * tile_rows && result.alpha == 1.0F;
    if (in_place && result.accumulate) {
        load_sums(result.c, result.stride);
    } else {
        zero_sums();
    }
    if (two_rows && two_cols) {
        add_products<true, true>(tiles, left, right);
    } else if (two_rows) {
        add_products<true, false>(tiles, left, right);
    } else if (two_cols) {
        add_products<false, true>(tiles, left, right);
    } else {
        add_products<false, false>(tiles, left, right);
    }
    if (in_place) {
        store_sums(result.c, result.stride);
        return;
    }
    alignas(64) float sums[4 * tile_rows * tile_rows];
    store_sums(sums, 2 * tile_rows);
    write_sums(sums, result);
}

}  // namespace

constinit const Bf16Kernel amx_bf16 = {
    .rows = 2 * tile_rows,
    .cols = 2 * tile_rows,
    .depth_step = 32,
    .panel_depth = 512,
    .block_depth = 1024,
    .left_block_bytes = 1U << 20U,
    .packed_size = sizeof(std::uint16_t),
    .pack_left = pack_vectors_of_32,
    .pack_right = pack_pairs,
    .multiply = multiply,
    .few_rows = 4,
    .multiply_few_rows = multiply_few_rows_avx512,
    .begin = configure_tiles,
    .end = release_tiles,
};

}  // namespace moesaic::kernels::detail
