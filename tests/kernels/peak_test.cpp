// Loops that measure limits of the machine: they do the work that their rates are computed from.
#include "kernels/peak.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kernel_set.hpp"
#include "support/amx_emulator.hpp"

namespace moesaic::kernels {
namespace {

using test::AmxEmulator;

class PeakLoops : public testing::TestWithParam<PeakLoop> {};

TEST_P(PeakLoops, MultiplyAndAddInEveryRound) {
    const PeakLoop& loop = GetParam();
    const bool emulate = loop.isa == Isa::amx && AmxEmulator::needed();
    if (!emulate && !runs(loop.isa)) {
        GTEST_SKIP() << "this machine does not run " << name(loop.isa);
    }
    const AmxEmulator emulator;
    EXPECT_GT(loop.operations, 0);
    const float few = loop.run(4);
    EXPECT_GT(few, loop.run(0));
    EXPECT_GT(loop.run(8), few);
    if ((level(loop.isa).needs & (feature::avx512_bf16 | feature::amx_bf16)) != 0) {
        // 4 rounds of 16 pairs of factors: one after the other in a tile, or in 16 sums.
        EXPECT_EQ(few - loop.run(0), 4 * 16 * (0.75F * 0.75F + 0.625F * 0.625F));
    }
    EXPECT_FALSE(AmxEmulator::holds_tiles()) << "tiles must be released";
}

TEST_P(PeakLoops, ReadEverything) {
    const PeakLoop& loop = GetParam();
    if (!runs(loop.isa)) {
        GTEST_SKIP() << "this machine does not run " << name(loop.isa);
    }
    std::vector<float> data(64 * 17, 1.0F);
    // Only some lanes are summed in the end: enough to keep the loads. All of them have the same sum.
    const float sum = loop.read(data.data(), static_cast<std::int64_t>(data.size()));
    EXPECT_GT(sum, 0);
    EXPECT_EQ(std::fmod(static_cast<float>(data.size()), sum), 0) << "sum of a lane: " << sum;
}

TEST(PeakLoop, EveryLevelWithAProductOfBf16HasOne) {
    for (const GemmKernel<core::bf16>& kernel : gemm_kernels<core::bf16>()) {
        EXPECT_EQ(std::ranges::count(peak_loops(), kernel.isa, &PeakLoop::isa), 1) << kernel.name;
    }
}

INSTANTIATE_TEST_SUITE_P(Levels, PeakLoops, testing::ValuesIn(peak_loops().begin(), peak_loops().end()),
                         [](const auto& level) { return std::string(name(level.param.isa)); });

}  // namespace
}  // namespace moesaic::kernels
