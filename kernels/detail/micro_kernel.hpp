// What one instruction set contributes to a matrix product: packing and one register block. Plain data and raw pointers
// only, no inline functions: this header is included by files that are compiled for instruction sets of later CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moesaic::kernels::detail {

/// A block of the result: C[rows, cols] = alpha * sum, added to C if `accumulate`.
template <class Sum>
struct ResultBlock {
    Sum* c;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t cols;
    Sum alpha;
    bool accumulate;
};

/// `count` vectors of length k, the rows of op(A) or the columns of op(B). `stride` elements lie between two vectors if
/// the elements of one are contiguous (`k_contiguous`), else between two elements of one vector.
template <class Element>
struct Operand {
    const Element* data;
    std::int64_t stride;
    bool k_contiguous;
    std::int64_t count;
    std::int64_t k;
};

/// Packs an operand into panels whose layout only the micro-kernel knows. Vectors are padded with zeros up to a whole
/// panel, k up to a multiple of `depth_step`; n vectors of padded depth k take n * k elements, so that panels of a
/// block are found by arithmetic.
template <class Element>
using Pack = void (*)(void* panels, const Operand<Element>& operand);

/// Element is the stored type (BF16 as its 16 bits), Sum the type of accumulators and results.
template <class Element, class Sum>
struct MicroKernel {
    std::int64_t rows;             ///< of the result block that `multiply` computes; divides 32
    std::int64_t cols;             ///< of that block
    std::int64_t depth_step;       ///< k of packed panels is a multiple of this
    std::int64_t panel_depth;      ///< longest k of one panel: a right panel of this depth stays in L1
    std::int64_t block_depth;      ///< longest k for which the left operand is packed at once
    std::size_t left_block_bytes;  ///< panels of the left operand that are to stay in L2
    std::size_t packed_size;       ///< bytes of one packed element
    Pack<Element> pack_left;
    Pack<Element> pack_right;
    /// Block of at most [rows, cols] from one left and one right panel of depth k.
    void (*multiply)(std::int64_t k, const void* left, const void* right, const ResultBlock<Sum>& result);
    /// Products of at most `few_rows` rows skip packing: left [rows, k] is contiguous, right is read where it is
    /// stored.
    std::int64_t few_rows;
    void (*multiply_few_rows)(std::int64_t k, const Sum* left, const Operand<Element>& right,
                              const ResultBlock<Sum>& result);
    /// Processor state around calls of `multiply`; null where there is none.
    void (*begin)();
    void (*end)();
};

using FloatKernel = MicroKernel<float, float>;
using Bf16Kernel = MicroKernel<std::uint16_t, float>;
using DoubleKernel = MicroKernel<double, double>;

extern const FloatKernel portable_float;
extern const Bf16Kernel portable_bf16;
extern const DoubleKernel portable_double;

// The following exist where MOESAIC_HAVE_ISA_KERNELS is 1.
extern const FloatKernel avx2_float;
extern const Bf16Kernel avx2_bf16;
extern const FloatKernel avx512_float;
extern const Bf16Kernel avx512_bf16_by_widening;
extern const Bf16Kernel avx512_bf16_pairs;
extern const Bf16Kernel amx_bf16;

// Parts that the AVX512_BF16 and AMX micro-kernels share; written for AVX-512 (F, BW, VL, DQ).

/// Panels of 16 vectors: [k / 32][16 vectors][32], the layout of an AMX tile of the left operand.
void pack_vectors_of_32(void* panels, const Operand<std::uint16_t>& operand);
/// Panels of 16 vectors: [k / 2][16 vectors][2], the layout of an AMX tile of the right operand (VNNI).
void pack_pairs(void* panels, const Operand<std::uint16_t>& operand);
/// `Bf16Kernel::multiply_few_rows` by widening to FP32.
void multiply_few_rows_avx512(std::int64_t k, const float* left, const Operand<std::uint16_t>& right,
                              const ResultBlock<float>& result);

}  // namespace moesaic::kernels::detail
