// Loops that do nothing but multiply and add in registers, or read memory: rates that no kernel of the level can
// exceed.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/isa.hpp"

namespace moesaic::kernels {

/// The multiply-add instruction of the BF16 kernel of a level, and its loads.
struct PeakLoop {
    Isa isa;
    double operations;                  ///< floating-point operations of one round, two per multiply-add
    float (*run)(std::int64_t rounds);  ///< on the calling thread; the result only keeps the work from being removed
    /// Reads `count` floats once, but for a few at the end, with the widest loads of the level.
    float (*read)(const float* data, std::int64_t count);
};

/// One loop per level that is built in, slowest level first.
[[nodiscard]] std::span<const PeakLoop> peak_loops();
/// That of a level that is built in.
[[nodiscard]] const PeakLoop& peak_loop(Isa isa);

}  // namespace moesaic::kernels
