// Products by AVX2 and FMA in FP32; BF16 operands are widened. Compiled for this instruction set: see
// micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx2 {
namespace {

#include "kernels/detail/vector_avx2.inc"

constexpr int panel_rows = 4;
constexpr int panel_cols = 16;
constexpr int few_rows = 4;
constexpr int few_vectors = 2;
constexpr std::int64_t panel_depth = 128;
constexpr std::size_t left_block_bytes = 1U << 18U;
constexpr int peak_sums = 12;  // two FMA units of latency 4 or 5 need ten

#include "kernels/detail/peak_loops.inc"
#include "kernels/detail/vector_kernels.inc"

}  // namespace

constinit const micro_kernel_t<float> gemm_float = description<float>;
constinit const micro_kernel_t<bf16> gemm_bf16 = description<std::uint16_t>;
constinit const Peak peak = {2.0 * lanes * peak_sums, multiply_add_in_registers, read_memory};

}  // namespace moesaic::kernels::detail::avx2
