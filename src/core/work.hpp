// What a measured piece of work can't do without, and how fast the machine could do it.
#pragma once

#include <algorithm>

namespace moesaic::core {

/// Limits that results are compared with: the best of several measurements.
struct MachineLimits {
    double peak_flops = 0;        ///< per second, all threads of a rank
    double bytes_per_second = 0;  ///< read from memory by all threads of a rank
};

/// Of one rank: base weights only, each read once.
struct Work {
    double operations = 0;
    double bytes = 0;  ///< from memory

    [[nodiscard]] double intensity() const { return operations / bytes; }  ///< operations per byte
    [[nodiscard]] double floor_seconds(const MachineLimits& limits) const {
        return std::max(bytes / limits.bytes_per_second, operations / limits.peak_flops);
    }
};

}  // namespace moesaic::core
