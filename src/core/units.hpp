// Units of memory.
#pragma once

namespace moesaic::core {

inline constexpr double mebibyte = 1024.0 * 1024.0;
inline constexpr double gibibyte = 1024.0 * mebibyte;

}  // namespace moesaic::core
