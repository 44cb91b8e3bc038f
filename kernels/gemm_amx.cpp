// Products of BF16 and of whole numbers by AMX tiles: blocks of 32 x 32 sums in four tiles. Compiled for this
// instruction set: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::amx {
namespace {

#include "kernels/detail/vector_avx512.inc"

constexpr int peak_sums = 6;  // tiles; two more hold the operands

#include "kernels/detail/interleave_rows.inc"
#include "kernels/detail/peak_loops.inc"
#include "kernels/detail/prefetch.inc"

constexpr std::int64_t tile_rows = 16;
constexpr std::int64_t tile_bytes = 1024;
constexpr std::int64_t row_bytes = 64;
constexpr std::int64_t line_bytes = 64;  // of caches

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

inline void prefetch_tile_to_l1(const char* tile) {
    for (std::int64_t row = 0; row < tile_rows; ++row) {
        _mm_prefetch(tile + row * row_bytes, _MM_HINT_T0);
    }
}

void configure_tiles() {
    // The intrinsic of GCC 12 declares only the first 8 bytes as read.
    asm volatile("ldtilecfg %0" ::"m"(full_tiles));
}

/// Tile state makes every context switch save 8 KiB more and keeps cores from sleeping deeply, so it ends with a
/// product.
void release_tiles() {
    _tile_release();
}

/// Tiles 0-3 hold the sums [2][2], 4 and 5 the left operand, 6 and 7 the right one. Tiles that a block with one row or
/// column of tiles does not reach are left as they are.
template <bool two_rows, bool two_cols, class Sum>
inline void load_sums(const Sum* c, std::int64_t stride) {
    _tile_loadd(0, c, stride * 4);
    if constexpr (two_cols) {
        _tile_loadd(1, c + tile_rows, stride * 4);
    }
    if constexpr (two_rows) {
        _tile_loadd(2, c + tile_rows * stride, stride * 4);
        if constexpr (two_cols) {
            _tile_loadd(3, c + tile_rows * stride + tile_rows, stride * 4);
        }
    }
}

inline void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

template <bool two_rows, bool two_cols, class Sum>
inline void store_sums(Sum* c, std::int64_t stride) {
    _tile_stored(0, c, stride * 4);
    if constexpr (two_cols) {
        _tile_stored(1, c + tile_rows, stride * 4);
    }
    if constexpr (two_rows) {
        _tile_stored(2, c + tile_rows * stride, stride * 4);
        if constexpr (two_cols) {
            _tile_stored(3, c + tile_rows * stride + tile_rows, stride * 4);
        }
    }
}

/// What multiplies tiles into sums of a type. The numbers of tiles are part of the instructions.
template <class Sum>
struct Tiles;
template <>
struct Tiles<float> {
    static constexpr std::int64_t depth = 32;  ///< elements of k
    static void multiply_top_left() { _tile_dpbf16ps(0, 4, 6); }
    static void multiply_top_right() { _tile_dpbf16ps(1, 4, 7); }
    static void multiply_bottom_left() { _tile_dpbf16ps(2, 5, 6); }
    static void multiply_bottom_right() { _tile_dpbf16ps(3, 5, 7); }
};
template <>
struct Tiles<std::int32_t> {
    static constexpr std::int64_t depth = 64;
    static void multiply_top_left() { _tile_dpbssd(0, 4, 6); }
    static void multiply_top_right() { _tile_dpbssd(1, 4, 7); }
    static void multiply_bottom_left() { _tile_dpbssd(2, 5, 6); }
    static void multiply_bottom_right() { _tile_dpbssd(3, 5, 7); }
};

/// Adds the product of two strips to the sums in tiles.
template <class Sum, bool two_rows, bool two_cols, bool packs>
inline void add_product(const StripTerm& term, const SideWork& side) {
    const auto* left = static_cast<const char*>(term.left);
    const auto* right = static_cast<const char*>(term.right);
    const bool fetches = side.fetch.count > 0;
    const auto* fetch = static_cast<const char*>(side.fetch.first) + (fetches ? side.first_line * line_bytes : 0);
    const std::int64_t lines = fetches ? side.last_line - side.first_line : 0;
    const auto* blocks = static_cast<const char*>(side.pack.first);
    auto* strip = static_cast<char*>(side.strip);
    const std::int64_t first_pair = side.first_row / 2;
    const std::int64_t last_pair = side.last_row / 2;
    const std::int64_t middle_pair = (first_pair + last_pair) / 2;
    for (std::int64_t k = 0; k < term.k; k += Tiles<Sum>::depth) {
        // All loads first: they then wait together, and the tile products behind them run unbroken. What they load has
        // been asked for during the products before: strips of tokens lie one behind the other, as do weights.
        const char* next_left = left + 2 * tile_bytes;
        const char* next_right = right + 2 * tile_bytes;
        _tile_loadd(4, left, row_bytes);
        _tile_loadd(6, right, row_bytes);
        if constexpr (two_rows) {
            _tile_loadd(5, left + tile_bytes, row_bytes);
        }
        if constexpr (two_cols) {
            _tile_loadd(7, right + tile_bytes, row_bytes);
        }
        Tiles<Sum>::multiply_top_left();
        prefetch_tile_to_l1(next_left);
        // Spread between the tile products, so that these never wait for many line-fill buffers at once.
        constexpr bool fetches_two = Tiles<Sum>::depth > kernel_block;
        prefetch_to_l2(fetch, 0, fetches_two ? lines : lines / 2);
        const bool packs_now = packs && k < side.pack.count * kernel_block;
        if (packs_now) {
            interleave_rows(blocks, row_bytes, strip, first_pair, middle_pair);
        }
        if constexpr (two_cols) {
            Tiles<Sum>::multiply_top_right();
        }
        prefetch_tile_to_l1(next_right);
        if constexpr (fetches_two) {
            fetch += side.fetch.step;
        }
        prefetch_to_l2(fetch, fetches_two ? 0 : lines / 2, lines);
        if (packs_now) {
            interleave_rows(blocks, row_bytes, strip, middle_pair, last_pair);
            blocks += side.pack.step;
            strip += 2 * tile_bytes;
        }
        if constexpr (two_rows) {
            Tiles<Sum>::multiply_bottom_left();
            prefetch_tile_to_l1(next_left + tile_bytes);
            if constexpr (two_cols) {
                Tiles<Sum>::multiply_bottom_right();
            }
        }
        if constexpr (two_cols) {
            prefetch_tile_to_l1(next_right + tile_bytes);
        }
        left = next_left;
        right = next_right;
        fetch += side.fetch.step;
    }
}

constexpr SideWork nothing = {};

template <bool two_rows, bool two_cols, bool packs, class Sum>
void multiply_tiles(const StripProduct<Sum>& product) {
    if (product.accumulate) {
        load_sums<two_rows, two_cols>(product.c, product.stride);
    } else {
        zero_sums();
    }
    add_product<Sum, two_rows, two_cols, packs>(product.term, product.side == nullptr ? nothing : *product.side);
    if (product.more.k > 0) {
        add_product<Sum, two_rows, two_cols, false>(product.more, nothing);
    }
    store_sums<two_rows, two_cols>(product.c, product.stride);
}

template <bool two_rows, bool two_cols>
void multiply_and_pack(const StripProduct<float>& product) {
    if (product.side == nullptr || product.side->pack.count == 0) {
        multiply_tiles<two_rows, two_cols, false>(product);
    } else {
        multiply_tiles<two_rows, two_cols, true>(product);
        const std::int64_t blocks = (product.term.k + kernel_block - 1) / kernel_block;
        product.side->packed = blocks < product.side->pack.count ? blocks : product.side->pack.count;
    }
}

void multiply(const StripProduct<float>& product) {
    const bool two_rows = product.rows > tile_rows;
    if (product.cols > tile_rows) {
        two_rows ? multiply_and_pack<true, true>(product) : multiply_and_pack<false, true>(product);
    } else {
        two_rows ? multiply_and_pack<true, false>(product) : multiply_and_pack<false, false>(product);
    }
}

void multiply_integers(const StripProduct<std::int32_t>& product) {
    const bool two_rows = product.rows > tile_rows;
    if (product.cols > tile_rows) {
        two_rows ? multiply_tiles<true, true, false>(product) : multiply_tiles<false, true, false>(product);
    } else {
        two_rows ? multiply_tiles<true, false, false>(product) : multiply_tiles<false, false, false>(product);
    }
}

/// TDPBF16PS on tiles in registers.
float multiply_tiles_in_registers(std::int64_t rounds) {
    // No zeros: multiplying these may draw less power and run at a higher frequency.
    alignas(64) std::uint16_t operand[tile_rows * kernel_block];
    for (int i = 0; i < tile_rows * kernel_block; ++i) {
        operand[i] = static_cast<std::uint16_t>(i % 2 == 0 ? 0x3f40 : 0xbf20);  // 0.75 and -0.625
    }
    configure_tiles();
    zero_sums();
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, operand, row_bytes);
    _tile_loadd(7, operand, row_bytes);
    for (std::int64_t round = 0; round < rounds; ++round) {
        _tile_dpbf16ps(0, 6, 7);
        _tile_dpbf16ps(1, 6, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7);
        _tile_dpbf16ps(4, 6, 7);
        _tile_dpbf16ps(5, 6, 7);
    }
    float sums[tile_rows * tile_rows];
    _tile_stored(0, sums, row_bytes);
    release_tiles();
    return sums[0];
}

/// Of the 2 MiB of an L2 cache, which two threads of a core may share: the weights want their part of it, too.
constexpr std::int64_t l2_bytes_of_tokens = 640 << 10;

}  // namespace

constinit const micro_kernel_t<bf16> gemm_bf16 = {
    .block_depth = Tiles<float>::depth,
    .left_bytes = 2 * tile_bytes,
    .right_bytes = 2 * tile_bytes,
    .left_is_plain = true,
    .right_is_pairs = true,
    .panel_depth = 2048,    // a strip of 128 KiB: sums stay in tiles, which is worth more than operands in L1
    .unpacked_depth = 256,  // what is written to L1 should be read from there; more passes would pay for it with sums
    .left_block_bytes = 1U << 20U,
    .pack_left = pack_vectors_of_32,
    .pack_right = pack_pairs,
    .multiply = multiply,
    .few_rows = 4,
    .multiply_few_rows = avx512::widen_and_multiply_few_rows,
    .state = {configure_tiles, release_tiles},
    .token_bytes = l2_bytes_of_tokens,
};
constinit const micro_kernel_t<int8> gemm_int8 = {
    .block_depth = Tiles<std::int32_t>::depth,
    .left_bytes = 2 * tile_bytes,
    .right_bytes = 2 * tile_bytes,
    .left_is_plain = false,
    .right_is_pairs = false,
    .panel_depth = 4096,
    .unpacked_depth = 1024,
    .left_block_bytes = 1U << 20U,
    .pack_left = pack_vectors_of_64,
    .pack_right = pack_quads_of_blocks,
    .multiply = multiply_integers,
    .few_rows = 0,
    .multiply_few_rows = nullptr,
    .state = {configure_tiles, release_tiles},
    .token_bytes = l2_bytes_of_tokens,
};
constinit const Peak peak = {2.0 * tile_rows * tile_rows * kernel_block * peak_sums, multiply_tiles_in_registers,
                             read_memory};

}  // namespace moesaic::kernels::detail::amx
