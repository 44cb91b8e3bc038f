// What the emulator does where a CPU would trap, and how it lives with other handlers of SIGILL.
#include <csignal>
#include <cstdlib>
#include <vector>

#include "amx_instructions.hpp"
#include "gemm_problem.hpp"

namespace moesaic::kernels::test {
namespace {

using AmxDeathTest = Amx;

TEST_F(AmxDeathTest, MisuseEndsTheProcess) {
    if (!AmxEmulator::needed()) {
        GTEST_SKIP() << "the CPU runs these itself";
    }
    AmxTiles::Configuration wrong = full_tiles;
    wrong.palette = 2;
    EXPECT_DEATH(configure(wrong), "AMX emulator: LDTILECFG: no such palette");
    wrong = full_tiles;
    wrong.rows[3] = 17;
    EXPECT_DEATH(configure(wrong), "more than 16 rows");
    wrong = full_tiles;
    wrong.rows[3] = 0;
    EXPECT_DEATH(configure(wrong), "bytes without rows");
    wrong = full_tiles;
    wrong.reserved_rows[0] = 1;
    EXPECT_DEATH(configure(wrong), "reserved");
    EXPECT_DEATH(asm volatile("tilezero %tmm0"), "TILEZERO: the tiles are not configured");
    wrong = full_tiles;
    wrong.rows[5] = 8;
    wrong.rows[6] = 0;
    wrong.bytes_per_row[6] = 0;
    configure(wrong);
    EXPECT_DEATH(asm volatile("tilezero %tmm6"), "gives this tile no rows");
    EXPECT_DEATH(asm volatile("tdpbf16ps %tmm1, %tmm5, %tmm0"), "different numbers of rows");
    EXPECT_DEATH(asm volatile("tdpbf16ps %tmm5, %tmm1, %tmm0"), "as many words");
    // tdpbf16ps %tmm1, %tmm1, %tmm0, which assemblers refuse.
    EXPECT_DEATH(asm volatile(".byte 0xc4, 0xe2, 0x72, 0x5c, 0xc1"), "must differ");
    EXPECT_DEATH(asm volatile("tileloadd %fs:(%rax,%rcx), %tmm0"), "not emulated");
}

void load_whole_tile(const char* memory) {
    asm volatile("tileloadd (%0, %1), %%tmm1" ::"r"(memory), "r"(std::int64_t{row_bytes}) : "memory");
}

TEST_F(AmxDeathTest, LoadsPastTheEndOfMemoryFault) {
    configure(full_tiles);
    const GuardedArray<char> bytes(max_rows * row_bytes);
    load_whole_tile(bytes.data());
    EXPECT_DEATH(load_whole_tile(bytes.data() + 1), "");
#if defined(__SANITIZE_ADDRESS__)
    if (AmxEmulator::needed()) {  // the sanitizer does not see what the CPU itself loads
        const std::vector<char> heap(max_rows * row_bytes);
        EXPECT_DEATH(load_whole_tile(heap.data() + 8), "heap-buffer-overflow");
    }
#endif
}

void exit_with_7(int) {
    std::_Exit(7);
}

TEST(AmxEmulatorDeathTest, OtherIllegalInstructionsReachThePreviousHandler) {
    const auto end_by = [](auto event) {
        std::signal(SIGILL, exit_with_7);
        const AmxEmulator emulator;
        event();
    };
    EXPECT_EXIT(end_by([] { asm volatile("ud2"); }), testing::ExitedWithCode(7), "");
    EXPECT_EXIT(end_by([] { raise(SIGILL); }), testing::ExitedWithCode(7), "");
}

TEST(AmxEmulatorDeathTest, LastOneRestoresThePreviousHandler) {
    const auto handler = std::signal(SIGILL, exit_with_7);
    {
        const AmxEmulator outer;
        { const AmxEmulator inner; }
        EXPECT_EQ(std::signal(SIGILL, exit_with_7) == exit_with_7, !AmxEmulator::needed());
    }
    EXPECT_EQ(std::signal(SIGILL, handler), exit_with_7);
}

}  // namespace
}  // namespace moesaic::kernels::test
