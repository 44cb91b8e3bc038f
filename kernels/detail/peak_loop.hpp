// The loops behind kernels/peak.hpp. Plain declarations only: the files that define them are compiled for instruction
// sets of later CPUs.
#pragma once

#include <cstdint>

namespace moesaic::kernels::detail {

/// Operations of one round of each loop: 2 x lanes x independent sums, for tiles 2 x 16 x 16 x 32 x sums.
inline constexpr double portable_peak_operations = 2.0 * 4 * 12;
inline constexpr double avx2_peak_operations = 2.0 * 8 * 12;
inline constexpr double avx512_peak_operations = 2.0 * 16 * 16;
inline constexpr double avx512_bf16_peak_operations = 2.0 * 32 * 16;
inline constexpr double amx_peak_operations = 2.0 * 16 * 16 * 32 * 6;

float portable_peak(std::int64_t rounds);
float portable_read(const float* data, std::int64_t count);

// The following exist where MOESAIC_HAVE_ISA_KERNELS is 1.
float avx2_peak(std::int64_t rounds);
float avx512_peak(std::int64_t rounds);
float avx2_read(const float* data, std::int64_t count);
float avx512_read(const float* data, std::int64_t count);
float avx512_bf16_peak(std::int64_t rounds);
float amx_peak(std::int64_t rounds);

}  // namespace moesaic::kernels::detail
