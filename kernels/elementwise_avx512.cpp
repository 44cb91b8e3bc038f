// Elementwise operations by AVX-512 (F, BW, VL, DQ). Compiled for this instruction set: see micro_kernel.hpp for the
// rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512 {
namespace {

#include "kernels/detail/vector_avx512.inc"

#include "kernels/detail/elementwise.inc"

}  // namespace

constinit const ElementwiseTable<bf16, float> elementwise_bf16 = table<bf16>;
constinit const ElementwiseTable<float, float> elementwise_float = table<float>;

}  // namespace moesaic::kernels::detail::avx512
