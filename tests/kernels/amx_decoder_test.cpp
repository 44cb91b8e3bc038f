// Addressing forms that compilers emit rarely, and encodings that are no AMX instruction.
#include "support/amx_decoder.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace moesaic::test {
namespace {

using Code = std::vector<std::uint8_t>;

/// What the assembler makes of "tileloadd ADDRESS, %tmm3", or "ldtilecfg ADDRESS".
struct Case {
    const char* text;
    Code code;
    AmxAddress address;
};

void expect_decoded(const Case& expected, AmxOperation operation, int tile) {
    SCOPED_TRACE(expected.text);
    const auto decoded = decode_amx(expected.code.data());
    ASSERT_TRUE(decoded.has_value());
    EXPECT_EQ(decoded->operation, operation);
    EXPECT_EQ(decoded->length, static_cast<int>(expected.code.size()));
    EXPECT_EQ(decoded->tile, tile);
    EXPECT_EQ(decoded->address.base, expected.address.base);
    EXPECT_EQ(decoded->address.index, expected.address.index);
    EXPECT_EQ(decoded->address.shift, expected.address.shift);
    EXPECT_EQ(decoded->address.displacement, expected.address.displacement);
}

constexpr int rsp = 4;
constexpr int rbp = 5;
constexpr int r12 = 12;
constexpr int r13 = 13;
constexpr int none = AmxAddress::none;

TEST(AmxDecoder, AddressesOfTiles) {
    const std::vector<Case> cases = {
        {"(%rsp,%rbp,8)", {0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0xec}, {.base = rsp, .index = rbp, .shift = 3}},
        {"-1(%rsp,%r12)", {0xc4, 0xa2, 0x7b, 0x4b, 0x5c, 0x24, 0xff}, {.base = rsp, .index = r12, .displacement = -1}},
        {"(%rbp,%r13,2)", {0xc4, 0xa2, 0x7b, 0x4b, 0x5c, 0x6d, 0x00}, {.base = rbp, .index = r13, .shift = 1}},
        {"(%r13)", {0xc4, 0xc2, 0x7b, 0x4b, 0x5c, 0x25, 0x00}, {.base = r13, .index = none}},
        {"-0x8000(%r12)",
         {0xc4, 0xc2, 0x7b, 0x4b, 0x9c, 0x24, 0x00, 0x80, 0xff, 0xff},
         {.base = r12, .index = none, .displacement = -0x8000}},
        {"0x40(,%r12,4)",
         {0xc4, 0xa2, 0x7b, 0x4b, 0x1c, 0xa5, 0x40, 0x00, 0x00, 0x00},
         {.base = none, .index = r12, .shift = 2, .displacement = 0x40}},
        {"0x7fffffff",
         {0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0x25, 0xff, 0xff, 0xff, 0x7f},
         {.base = none, .index = none, .displacement = 0x7fffffff}},
    };
    for (const Case& expected : cases) {
        expect_decoded(expected, AmxOperation::tileloadd, 3);
    }
}

TEST(AmxDecoder, AddressesOfConfigurations) {
    const std::vector<Case> cases = {
        {"0x100(%rip)",
         {0xc4, 0xe2, 0x78, 0x49, 0x05, 0x00, 0x01, 0x00, 0x00},
         {.base = AmxAddress::instruction_pointer, .displacement = 0x100}},
        {"(%rsp)", {0xc4, 0xe2, 0x78, 0x49, 0x04, 0x24}, {.base = rsp}},
        {"(%rbp)", {0xc4, 0xe2, 0x78, 0x49, 0x45, 0x00}, {.base = rbp}},
        {"(%r13)", {0xc4, 0xc2, 0x78, 0x49, 0x45, 0x00}, {.base = r13}},
        {"-128(%r12)", {0xc4, 0xc2, 0x78, 0x49, 0x44, 0x24, 0x80}, {.base = r12, .displacement = -128}},
        {"0x80(%rax)", {0xc4, 0xe2, 0x78, 0x49, 0x80, 0x80, 0x00, 0x00, 0x00}, {.base = 0, .displacement = 0x80}},
        {"(%rsp,%r12,4)", {0xc4, 0xa2, 0x78, 0x49, 0x04, 0xa4}, {.base = rsp, .index = r12, .shift = 2}},
        {"0x1000", {0xc4, 0xe2, 0x78, 0x49, 0x04, 0x25, 0x00, 0x10, 0x00, 0x00}, {.displacement = 0x1000}},
    };
    for (const Case& expected : cases) {
        expect_decoded(expected, AmxOperation::ldtilecfg, 0);
    }
}

TEST(AmxDecoder, RefusesOtherEncodings) {
    const std::vector<Code> others = {
        {0x90},                                // nop
        {0x0f, 0x0b},                          // ud2
        {0xc5, 0xf8, 0x77},                    // vzeroupper
        {0xc4, 0xe2, 0x7b, 0x4b, 0x00},        // tileloadd without SIB byte
        {0xc4, 0x62, 0x7b, 0x4b, 0x04, 0x08},  // tile 8
        {0xc4, 0xe2, 0xfb, 0x4b, 0x04, 0x08},  // VEX.W
        {0xc4, 0xe2, 0x7f, 0x4b, 0x04, 0x08},  // VEX.L
        {0xc4, 0xe2, 0x73, 0x4b, 0x04, 0x08},  // VEX.vvvv
        {0xc4, 0xe2, 0x78, 0x49, 0xc8},        // tilerelease with a register
        {0xc4, 0xe2, 0x7b, 0x49, 0xc1},        // tilezero with a second register
        {0xc4, 0xe2, 0x78, 0x49, 0x08},        // ldtilecfg with a register
        {0xc4, 0xe2, 0x42, 0x5e, 0xd4},        // tdpbsud, which no kernel uses
    };
    for (const Code& code : others) {
        EXPECT_FALSE(decode_amx(code.data()).has_value()) << testing::PrintToString(code);
    }
}

}  // namespace
}  // namespace moesaic::test
