// TDPBF16PS on tiles in registers. See micro_kernel.hpp for the rules that files compiled for one instruction
// set obey.
#include <immintrin.h>

#include "kernels/detail/peak_loop.hpp"

namespace moesaic::kernels::detail {
namespace {

/// Operand of LDTILECFG: palette 1, all eight tiles 16 x 64 bytes.
struct TileConfiguration {
    std::uint8_t head[16];
    std::uint16_t bytes_per_row[16];
    std::uint8_t rows[16];
};
constinit const TileConfiguration full_tiles = {
    .head = {1}, .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/// One tile of BF16 values that are not zero: multiplying zeros may draw less power and run at a higher frequency.
struct OperandTile {
    alignas(64) std::uint16_t words[16 * 32];
};

}  // namespace

float amx_peak(std::int64_t rounds) {
    OperandTile operand;
    for (int i = 0; i < 16 * 32; ++i) {
        operand.words[i] = static_cast<std::uint16_t>(i % 2 == 0 ? 0x3f40 : 0xbf20);  // 0.75 and -0.625
    }
    asm volatile("ldtilecfg %0" ::"m"(full_tiles));  // the intrinsic of GCC 12 declares only 8 bytes as read
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, operand.words, 64);
    _tile_loadd(7, operand.words, 64);
    for (std::int64_t round = 0; round < rounds; ++round) {
        _tile_dpbf16ps(0, 6, 7);
        _tile_dpbf16ps(1, 6, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7);
        _tile_dpbf16ps(4, 6, 7);
        _tile_dpbf16ps(5, 6, 7);
    }
    float sums[16 * 16];
    _tile_stored(0, sums, 64);
    _tile_release();
    return sums[0];
}

}  // namespace moesaic::kernels::detail
