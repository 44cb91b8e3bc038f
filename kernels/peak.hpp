// Loops of multiply-add instructions on registers alone: the rate that no kernel of the same level can exceed.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/isa.hpp"

namespace moesaic::kernels {

/// The fastest multiply-add instruction that the BF16 kernel of a level uses.
struct PeakLoop {
    Isa isa;
    double operations;                  ///< floating-point operations of one round, two per multiply-add
    float (*run)(std::int64_t rounds);  ///< on the calling thread; the result only keeps the work from being removed
};

/// One loop per level that is built in, slowest level first.
[[nodiscard]] std::span<const PeakLoop> peak_loops();

}  // namespace moesaic::kernels
