// Instruction set levels that kernels are written for, and which of them this machine really runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::kernels {

/// Levels in ascending order; a level includes the ones before it.
enum class Isa { portable, avx2, avx512, avx512_bf16, amx };

[[nodiscard]] std::string_view name(Isa isa) noexcept;

/// True if the CPU and the operating system offer the level AND a small computation with it gave the right result: some
/// hosts advertise AMX and fault. Asks the kernel for AMX tile permission on first use. Each level is tested once.
[[nodiscard]] bool runs(Isa isa);

/// True where the CPU multiplies pairs of BF16 (VDPBF16PS) faster than it widens them to FP32: not on Intel's cores,
/// which issue that instruction at half the rate of an FMA or less (measured on Sapphire and Emerald Rapids).
[[nodiscard]] bool bf16_pairs_are_faster();

/// The outcome of the self-test of one level, for people: "ok", "not offered by the CPU", "faulted in the self-test".
struct IsaReport {
    Isa isa;
    bool usable;
    std::string explanation;
};
[[nodiscard]] std::vector<IsaReport> self_test();

/// Compiler options of the files for later CPUs, beside those of the whole program; empty if none are built in.
[[nodiscard]] std::string_view compile_options() noexcept;

}  // namespace moesaic::kernels
