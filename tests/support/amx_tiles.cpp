#include "support/amx_tiles.hpp"

#include <immintrin.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace moesaic::test {
namespace {

void write_text(const char* text) {
    // An error that can't be shown is still one: the caller aborts.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

template <class Bytes>
bool all_zero(const Bytes& bytes) {
    return std::all_of(std::begin(bytes), std::end(bytes), [](auto byte) { return byte == 0; });
}

}  // namespace

void fail_amx(const char* instruction, const char* why) {
    write_text("AMX emulator: ");
    write_text(instruction);
    write_text(": ");
    write_text(why);
    write_text("\n");
    std::abort();
}

void AmxTiles::load_configuration(const void* memory) {
    constexpr const char* instruction = "LDTILECFG";
    Configuration wanted;
    std::memcpy(&wanted, memory, sizeof(wanted));
    release();
    if (wanted.palette == 0) {
        return;
    }
    if (wanted.palette != 1) {
        fail_amx(instruction, "no such palette, only 0 and 1 exist");
    }
    if (wanted.start_row != 0) {
        fail_amx(instruction, "start_row is not 0; resuming an interrupted load or store is not emulated");
    }
    if (!all_zero(wanted.reserved) || !all_zero(wanted.reserved_bytes_per_row) || !all_zero(wanted.reserved_rows)) {
        fail_amx(instruction, "reserved bytes are not 0");
    }
    for (int tile = 0; tile < count; ++tile) {
        if (wanted.rows[tile] > max_rows || wanted.bytes_per_row[tile] > row_bytes) {
            fail_amx(instruction, "a tile has more than 16 rows or more than 64 bytes per row");
        }
        if ((wanted.rows[tile] == 0) != (wanted.bytes_per_row[tile] == 0)) {
            fail_amx(instruction, "a tile has rows without bytes or bytes without rows");
        }
    }
    configuration_ = wanted;
}

void AmxTiles::store_configuration(void* memory) const {
    std::memcpy(memory, &configuration_, sizeof(configuration_));
}

void AmxTiles::release() {
    configuration_ = {};
    std::memset(data_, 0, sizeof(data_));
}

void AmxTiles::require_tile(const char* instruction, int tile) const {
    if (!configured()) {
        fail_amx(instruction, "the tiles are not configured");
    }
    if (configuration_.rows[tile] == 0) {
        fail_amx(instruction, "the configuration gives this tile no rows");
    }
}

void AmxTiles::write_row_and_zero(int tile, int row, const void* bytes) {
    const std::size_t used = configuration_.bytes_per_row[tile];
    std::memcpy(data_[tile][row], bytes, used);
    std::memset(data_[tile][row] + used, 0, row_bytes - used);
}

void AmxTiles::zero_upper_rows(int tile) {
    const std::size_t rows = configuration_.rows[tile];
    std::memset(data_[tile] + rows, 0, (max_rows - rows) * row_bytes);
}

void AmxTiles::zero(int tile) {
    require_tile("TILEZERO", tile);
    std::memset(data_[tile], 0, sizeof(data_[tile]));
}

void AmxTiles::load(int tile, const char* memory, std::int64_t stride) {
    require_tile("TILELOADD", tile);
    for (int row = 0; row < configuration_.rows[tile]; ++row) {
        write_row_and_zero(tile, row, memory + row * stride);
    }
    zero_upper_rows(tile);
}

void AmxTiles::store(int tile, char* memory, std::int64_t stride) const {
    require_tile("TILESTORED", tile);
    for (int row = 0; row < configuration_.rows[tile]; ++row) {
        std::memcpy(memory + row * stride, data_[tile][row], configuration_.bytes_per_row[tile]);
    }
}

void AmxTiles::require_shapes(const char* instruction, int sums, int left, int right) const {
    if (sums == left || left == right || sums == right) {
        fail_amx(instruction, "the three tiles must differ");
    }
    for (const int tile : {sums, left, right}) {
        require_tile(instruction, tile);
        if (configuration_.bytes_per_row[tile] % 4 != 0) {
            fail_amx(instruction, "bytes per row are not a multiple of 4");
        }
    }
    if (configuration_.rows[sums] != configuration_.rows[left]) {
        fail_amx(instruction, "the sums and the left tile have different numbers of rows");
    }
    if (configuration_.bytes_per_row[sums] != configuration_.bytes_per_row[right]) {
        fail_amx(instruction, "the sums and the right tile have rows of different lengths");
    }
    if (configuration_.bytes_per_row[left] / 4 != configuration_.rows[right]) {
        fail_amx(instruction, "the left tile has not as many words as the right one has rows");
    }
}

/// As the pseudo-code has it: even and odd elements are summed apart by FMA, then added, then added to the tile. Not
/// inlined, lest the compiler move arithmetic before the write of MXCSR.
__attribute__((target("avx512f"), noinline)) void AmxTiles::accumulate_row(int row, int sums, int left, int right) {
    using Words = std::uint32_t __attribute__((vector_size(row_bytes)));
    __m512 even = {};
    __m512 odd = {};
    for (int pair = 0; pair < configuration_.bytes_per_row[left] / 4; ++pair) {
        std::uint32_t factors = 0;
        std::memcpy(&factors, data_[left][row] + 4 * pair, sizeof(factors));
        Words words;
        std::memcpy(&words, data_[right][pair], sizeof(words));
        const Words even_factors = Words{} + (factors << 16U);
        const Words odd_factors = Words{} + (factors & 0xffff0000U);
        const Words even_words = words << 16U;
        const Words odd_words = words & 0xffff0000U;
        even = _mm512_fmadd_ps(reinterpret_cast<__m512>(even_factors), reinterpret_cast<__m512>(even_words), even);
        odd = _mm512_fmadd_ps(reinterpret_cast<__m512>(odd_factors), reinterpret_cast<__m512>(odd_words), odd);
    }
    __m512 result;
    std::memcpy(&result, data_[sums][row], sizeof(result));
    result = result + (even + odd);
    write_row_and_zero(sums, row, &result);
}

void AmxTiles::multiply_bf16(int sums, int left, int right) {
    require_shapes("TDPBF16PS", sums, left, right);
    // Exceptions masked, round to nearest even, denormal operands and results count as zeros (FTZ, DAZ).
    constexpr unsigned mxcsr = 0x1f80U | 0x8000U | 0x0040U;
    _mm_setcsr(mxcsr);
    for (int row = 0; row < configuration_.rows[sums]; ++row) {
        accumulate_row(row, sums, left, right);
    }
    zero_upper_rows(sums);
}

void AmxTiles::multiply_bytes(int sums, int left, int right) {
    require_shapes("TDPBSSD", sums, left, right);
    const int cols = configuration_.bytes_per_row[sums] / 4;
    for (int row = 0; row < configuration_.rows[sums]; ++row) {
        std::uint32_t result[row_bytes / 4];
        std::memcpy(result, data_[sums][row], sizeof(result));
        for (int k = 0; k < configuration_.bytes_per_row[left]; ++k) {
            const auto factor = static_cast<std::int8_t>(data_[left][row][k]);
            for (int col = 0; col < cols; ++col) {
                const auto element = static_cast<std::int8_t>(data_[right][k / 4][4 * col + k % 4]);
                result[col] += static_cast<std::uint32_t>(int{factor} * int{element});
            }
        }
        write_row_and_zero(sums, row, result);
    }
    zero_upper_rows(sums);
}

}  // namespace moesaic::test
