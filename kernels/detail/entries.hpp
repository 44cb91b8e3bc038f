// Declarations of everything that kernels/table.inc lists, and of what kernels share. Plain declarations only: this
// header is included by files that are compiled for later CPUs.
#pragma once

#include "kernels/detail/elementwise_table.hpp"
#include "kernels/micro_kernel.hpp"

namespace moesaic::kernels::detail {

using core::bf16;

#define MOESAIC_GEMM(name, type, level, preference) \
    namespace name {                                \
    extern const micro_kernel_t<type> gemm_##type;  \
    }
#define MOESAIC_ELEMENTWISE(name, type, level, preference)                     \
    namespace name {                                                           \
    extern const ElementwiseTable<type, Stored<type>::Sum> elementwise_##type; \
    }
#define MOESAIC_PEAK(level) \
    namespace level {       \
    extern const Peak peak; \
    }
#include "kernels/table.inc"

/// Blocks [32 vectors][32 of k]: two AMX tiles of the left operand.
void pack_vectors_of_32(void* strip, const Operand<std::uint16_t>& operand);
/// Blocks [2][16 pairs of k][16 vectors][2]: two AMX tiles of the right operand (VNNI).
void pack_pairs(void* strip, const Operand<std::uint16_t>& operand);
/// Blocks [32 vectors][64 of k]: two AMX tiles of the left operand.
void pack_vectors_of_64(void* strip, const Operand<int8>& operand);
/// The same plus 128, in unsigned bytes.
void pack_vectors_of_64_above_zero(void* strip, const Operand<int8>& operand);
/// Blocks [2][16 quads of k][16 vectors][4]: two AMX tiles of the right operand.
void pack_quads(void* strip, const Operand<int8>& operand);
/// The same by AVX-512 VBMI, which is quicker for whole blocks [32 of k][32 vectors].
void pack_quads_of_blocks(void* strip, const Operand<int8>& operand);

namespace avx512 {
/// MicroKernel::multiply_few_rows by widening to FP32.
void widen_and_multiply_few_rows(const float* left, const Operand<std::uint16_t>& right,
                                 const ResultBlock<float>& result);
}  // namespace avx512

}  // namespace moesaic::kernels::detail
