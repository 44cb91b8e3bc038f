// Products by AVX-512 (F, BW, VL, DQ) in FP32; BF16 operands are widened. Compiled for this instruction set: see
// micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512 {
namespace {

#include "kernels/detail/vector_avx512.inc"

constexpr int panel_rows = 8;
constexpr int panel_cols = 32;
constexpr int few_rows = 4;
constexpr int few_vectors = 4;
constexpr std::int64_t panel_depth = 256;
constexpr std::size_t left_block_bytes = 1U << 20U;
constexpr int peak_sums = 16;

#include "kernels/detail/peak_loops.inc"
#include "kernels/detail/vector_kernels.inc"

}  // namespace

void widen_and_multiply_few_rows(const float* left, const Operand<std::uint16_t>& right,
                                 const ResultBlock<float>& result) {
    multiply_few_rows(left, right, result);
}

constinit const micro_kernel_t<float> gemm_float = description<float>;
constinit const micro_kernel_t<bf16> gemm_bf16 = description<std::uint16_t>;
constinit const Peak peak = {2.0 * lanes * peak_sums, multiply_add_in_registers, read_memory};

}  // namespace moesaic::kernels::detail::avx512
