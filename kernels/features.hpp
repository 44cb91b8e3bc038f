// What kernels need of a CPU, one bit each.
#pragma once

#include <cstdint>

namespace moesaic::kernels {

/// A set of the features below.
using Features = std::uint64_t;

namespace feature {

enum Number : unsigned {
#define MOESAIC_FEATURE(name, leaf, subleaf, word, bit, state) name##_number,
#include "kernels/table.inc"
};
inline constexpr Features none = 0;
#define MOESAIC_FEATURE(name, leaf, subleaf, word, bit, state) \
    inline constexpr Features name = Features{1} << static_cast<unsigned>(name##_number);
#include "kernels/table.inc"
/// The CPU multiplies pairs of BF16 (VDPBF16PS) faster than it widens them to FP32: not so on Intel's cores, which
/// issue that instruction at half the rate of an FMA or less (measured on Sapphire and Emerald Rapids).
inline constexpr Features fast_bf16_pairs = Features{1} << 63U;

}  // namespace feature

/// Features of the CPU; none where no kernels for later CPUs are built in.
[[nodiscard]] Features cpu_features();

/// True if the operating system saves the registers of these features. Asks it for AMX tiles, which it grants per
/// process.
[[nodiscard]] bool system_enables(Features features);

}  // namespace moesaic::kernels
