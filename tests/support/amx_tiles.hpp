// The tile registers of one thread and what AMX instructions do to them: Intel SDM, volume 1, chapter "Programming with
// Intel AMX", and the pseudo-code of each instruction in volume 2.
#pragma once

#include <cstdint>

namespace moesaic::test {

/// Misuse that a CPU answers with #UD or #GP ends the process with a message. Async-signal-safe.
class AmxTiles {
public:
    static constexpr int count = 8;
    static constexpr int max_rows = 16;
    static constexpr int row_bytes = 64;

    /// Operand of LDTILECFG and STTILECFG for palette 1.
    struct Configuration {
        std::uint8_t palette;
        std::uint8_t start_row;
        std::uint8_t reserved[14];
        std::uint16_t bytes_per_row[count];
        std::uint16_t reserved_bytes_per_row[8];
        std::uint8_t rows[count];
        std::uint8_t reserved_rows[8];
    };
    static_assert(sizeof(Configuration) == 64);

    [[nodiscard]] bool configured() const { return configuration_.palette != 0; }

    void load_configuration(const void* memory);
    void store_configuration(void* memory) const;
    void release();
    void zero(int tile);
    void load(int tile, const char* memory, std::int64_t stride);
    void store(int tile, char* memory, std::int64_t stride) const;

    /// TDPBF16PS: sums [m, n] += left [m, k] * right [k / 2, n, 2]. Changes MXCSR. Needs AVX-512 F.
    void multiply_bf16(int sums, int left, int right);
    /// TDPBSSD: sums [m, n] += left [m, k] * right [k / 4, n, 4], signed bytes, in 32 bits that wrap.
    void multiply_bytes(int sums, int left, int right);

private:
    using Row = std::uint8_t[row_bytes];

    void require_tile(const char* instruction, int tile) const;
    void require_shapes(const char* instruction, int sums, int left, int right) const;
    void write_row_and_zero(int tile, int row, const void* bytes);
    void zero_upper_rows(int tile);
    void accumulate_row(int row, int sums, int left, int right);

    Configuration configuration_ = {};
    alignas(64) Row data_[count][max_rows] = {};
};

/// Writes why a program may not do this and aborts. Async-signal-safe.
[[noreturn]] void fail_amx(const char* instruction, const char* why);

}  // namespace moesaic::test
