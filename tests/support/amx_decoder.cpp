#include "support/amx_decoder.hpp"

#include <cstring>

namespace moesaic::test {
namespace {

constexpr int register_form = 3;  // ModRM.mod

/// VEX prefix of three bytes, inverted fields in plain form, with the opcode and ModRM byte that follow it.
struct Encoding {
    bool r;  ///< fourth bits of ModRM.reg, of the index and of the base
    bool x;
    bool b;
    int vvvv;
    int pp;  ///< 0 none, 1 for 66, 2 for F3, 3 for F2
    int opcode;
    int mod;
    int reg;
    int rm;
};
constexpr int encoding_bytes = 5;

std::optional<Encoding> decode_encoding(const std::uint8_t* code) {
    constexpr int vex3 = 0xc4;
    constexpr int map_0f38 = 2;
    if (code[0] != vex3 || (code[1] & 0x1f) != map_0f38) {
        return std::nullopt;
    }
    const int third = code[2];
    const bool wide = (third & 0x80) != 0;
    const bool vector256 = (third & 0x04) != 0;
    if (wide || vector256) {
        return std::nullopt;
    }
    const int modrm = code[4];
    return Encoding{.r = (code[1] & 0x80) == 0,
                    .x = (code[1] & 0x40) == 0,
                    .b = (code[1] & 0x20) == 0,
                    .vvvv = ~(third >> 3) & 0xf,
                    .pp = third & 3,
                    .opcode = code[3],
                    .mod = modrm >> 6,
                    .reg = (modrm >> 3) & 7,
                    .rm = modrm & 7};
}

constexpr bool has_sib(const Encoding& encoding) {
    return encoding.mod != register_form && encoding.rm == 4;
}

/// Operation of a memory form; empty if there is none.
std::optional<AmxOperation> memory_operation(const Encoding& encoding) {
    if (encoding.r || encoding.vvvv != 0) {
        return std::nullopt;
    }
    if (encoding.opcode == 0x49 && encoding.reg == 0) {
        switch (encoding.pp) {
            case 0:
                return AmxOperation::ldtilecfg;
            case 1:
                return AmxOperation::sttilecfg;
            default:
                return std::nullopt;
        }
    }
    if (encoding.opcode == 0x4b && has_sib(encoding)) {
        switch (encoding.pp) {
            case 1:
                return AmxOperation::tileloaddt1;
            case 2:
                return AmxOperation::tilestored;
            case 3:
                return AmxOperation::tileloadd;
            default:
                return std::nullopt;
        }
    }
    return std::nullopt;
}

std::optional<AmxInstruction> decode_registers(const Encoding& encoding) {
    if (encoding.r || encoding.x || encoding.b) {
        return std::nullopt;
    }
    const bool multiplies_bf16 = encoding.opcode == 0x5c && encoding.pp == 2;
    const bool multiplies_bytes = encoding.opcode == 0x5e && encoding.pp == 3;
    if ((multiplies_bf16 || multiplies_bytes) && encoding.vvvv < 8) {
        return AmxInstruction{.operation = multiplies_bf16 ? AmxOperation::tdpbf16ps : AmxOperation::tdpbssd,
                              .length = encoding_bytes,
                              .tile = encoding.reg,
                              .left = encoding.rm,
                              .right = encoding.vvvv,
                              .address = {}};
    }
    if (encoding.opcode == 0x49 && encoding.vvvv == 0 && encoding.rm == 0) {
        if (encoding.pp == 3) {
            return AmxInstruction{
                .operation = AmxOperation::tilezero, .length = encoding_bytes, .tile = encoding.reg, .address = {}};
        }
        if (encoding.pp == 0 && encoding.reg == 0) {
            return AmxInstruction{.operation = AmxOperation::tilerelease, .length = encoding_bytes, .address = {}};
        }
    }
    return std::nullopt;
}

/// Sets address and length from what follows the ModRM byte at `next`.
void decode_address(const Encoding& encoding, const std::uint8_t* next, AmxInstruction& instruction) {
    AmxAddress& address = instruction.address;
    const std::uint8_t* const start = next;
    bool wide_displacement = encoding.mod == 2;
    int base = encoding.rm;
    if (has_sib(encoding)) {
        const int sib = *next++;
        const int index = ((sib >> 3) & 7) + (encoding.x ? 8 : 0);
        base = sib & 7;
        address.index = index == 4 ? AmxAddress::none : index;
        address.shift = sib >> 6;
    }
    if (encoding.mod == 0 && base == 5) {  // no base; without SIB byte it is the instruction pointer
        wide_displacement = true;
        address.base = has_sib(encoding) ? AmxAddress::none : AmxAddress::instruction_pointer;
    } else {
        address.base = base + (encoding.b ? 8 : 0);
    }
    if (wide_displacement) {
        std::memcpy(&address.displacement, next, sizeof(address.displacement));
        next += sizeof(address.displacement);
    } else if (encoding.mod == 1) {
        address.displacement = static_cast<std::int8_t>(*next++);
    }
    instruction.length = encoding_bytes + static_cast<int>(next - start);
}

}  // namespace

std::optional<AmxInstruction> decode_amx(const std::uint8_t* code) {
    const std::optional<Encoding> encoding = decode_encoding(code);
    if (!encoding.has_value()) {
        return std::nullopt;
    }
    if (encoding->mod == register_form) {
        return decode_registers(*encoding);
    }
    const std::optional<AmxOperation> operation = memory_operation(*encoding);
    if (!operation.has_value()) {
        return std::nullopt;
    }
    AmxInstruction instruction{.operation = *operation, .length = 0, .tile = encoding->reg, .address = {}};
    decode_address(*encoding, code + encoding_bytes, instruction);
    return instruction;
}

}  // namespace moesaic::test
