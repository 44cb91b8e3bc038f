// Decodes the AMX instructions of the project's kernels: VEX, ModRM and SIB as in the Intel SDM, volume 2, chapter 2,
// the opcodes as in its chapters 3 to 5 (LDTILECFG to TILEZERO).
#pragma once

#include <cstdint>
#include <optional>

namespace moesaic::test {

enum class AmxOperation {
    ldtilecfg,
    sttilecfg,
    tilerelease,
    tilezero,
    tileloadd,
    tileloaddt1,
    tilestored,
    tdpbf16ps,
    tdpbssd
};

/// Registers as instructions number them: 0 is RAX, 4 RSP, 15 R15; -1 where an operand has none.
struct AmxAddress {
    static constexpr int none = -1;
    static constexpr int instruction_pointer = 16;  ///< only as base: that of the next instruction

    int base = none;
    int index = none;
    int shift = 0;  ///< of the index
    std::int32_t displacement = 0;
};

struct AmxInstruction {
    AmxOperation operation;
    int length;          ///< bytes
    int tile = 0;        ///< that is loaded, stored, zeroed or accumulated in
    int left = 0;        ///< operands of TDPBF16PS, [m, k] and [k / 2, n, 2], or TDPBSSD, [m, k] and [k / 4, n, 4]
    int right = 0;       ///<
    AmxAddress address;  ///< the row stride of a tile is the shifted index
};

/// Empty if `code` is none of the instructions. Reads no byte after the instruction. Async-signal-safe.
[[nodiscard]] std::optional<AmxInstruction> decode_amx(const std::uint8_t* code);

}  // namespace moesaic::test
