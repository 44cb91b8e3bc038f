// AMX instructions for tests, run by the CPU or the emulator.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

#include "kernels/isa.hpp"
#include "support/amx_emulator.hpp"
#include "support/amx_tiles.hpp"

namespace moesaic::kernels::test {

using moesaic::test::AmxEmulator;
using moesaic::test::AmxTiles;

constexpr int max_rows = AmxTiles::max_rows;
constexpr int row_bytes = AmxTiles::row_bytes;

inline constinit const AmxTiles::Configuration full_tiles = {
    .palette = 1,
    .start_row = 0,
    .reserved = {},
    .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64},
    .reserved_bytes_per_row = {},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    .reserved_rows = {},
};

inline void configure(const AmxTiles::Configuration& configuration) {
    asm volatile("ldtilecfg %0" ::"m"(configuration));
}
inline void release() {
    asm volatile("tilerelease");
}

/// Skips where the machine can neither run nor emulate AMX.
class Amx : public testing::Test {
protected:
    void SetUp() override {
        if (AmxEmulator::needed()) {
            emulator_.emplace();
            RecordProperty("amx", "emulated");
        } else if (!runs(Isa::amx)) {
            GTEST_SKIP() << "this machine does not run amx";
        }
    }
    void TearDown() override {
        if (!IsSkipped()) {
            release();
        }
    }

private:
    std::optional<AmxEmulator> emulator_;
};

}  // namespace moesaic::kernels::test
