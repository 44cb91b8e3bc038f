// Is the result of a matrix product right? Found out in the time of a few passes over the operands.
#pragma once

#include "kernels/kernel_set.hpp"

namespace moesaic::bench {

/// Products of BF16 are exact in FP32 and their sums err by about 2^-24 sqrt(k): 1e-5 for k = 20,000. A wrong element
/// shows as 1 / sqrt(n) or more.
inline constexpr double product_error_bound = 1e-4;

/// Error of the worst row of C = op(A) op(B), relative to the row's norm. Compares C x with op(A) (op(B) x) for a
/// random vector x in double precision (Freivalds, 1977): every element takes part, and no kernel has to be trusted as
/// the reference. alpha must be 1 and `accumulate` false.
[[nodiscard]] double product_error(const kernels::Gemm<core::bf16>& product);

}  // namespace moesaic::bench
