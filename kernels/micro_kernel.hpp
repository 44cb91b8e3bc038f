// What one instruction set contributes to matrix products: packing of operands and products of packed strips. Plain
// data and raw pointers only, no inline functions: this header is included by files that are compiled for later CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moesaic::kernels {

/// Products are computed in blocks of this many rows, columns and elements of k.
constexpr std::int64_t block_size = 32;

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

/// Packs at most 32 vectors into a strip: one packed block of 32 vectors x 32 elements of k after the other. Missing
/// elements of k up to a multiple of 32 become zeros, as do missing vectors up to a multiple of 16.
template <class Element>
using Pack = void (*)(void* strip, const Operand<Element>& operand);

/// What a product does on the side for the ones that follow, for each 32 elements of k. Products of few rows are bound
/// by memory, and packing uses other ports than tiles do: neither should wait for the other.
struct Ahead {
    /// Cache lines to bring to L2: `lines` of them at `prefetch`, then at `prefetch + step`, ...
    const char* prefetch;
    std::int64_t lines;
    /// Where MicroKernel::packs_ahead: plain blocks at `blocks`, `blocks + step`, ... to pack into the right strip
    /// `strip` with their rows as k, of each block the pairs of rows [first_pair, last_pair). Null says none.
    const char* blocks;
    void* strip;
    std::int64_t first_pair;
    std::int64_t last_pair;
    std::int64_t block_count;
    std::int64_t step;  ///< bytes, from line to line and from block to block
};

/// Packed strips whose product is added to the same sums.
struct StripTerm {
    const void* left;
    const void* right;
    std::int64_t k;  ///< 0 says none
};

/// C[rows, cols] = L[rows, k] R[k, cols], added to C if `accumulate`; at most 32 rows and columns. Whole groups of 16
/// rows and columns are computed, so that C must have room for them.
template <class Sum>
struct StripProduct {
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t k;
    const void* left;
    const void* right;
    Sum* c;
    std::int64_t stride;
    bool accumulate;
    Ahead ahead;
    StripTerm more;  ///< where MicroKernel::adds_terms
};

/// A block of a result: C[rows, cols] = alpha * sum, added to C if `accumulate`.
template <class Sum>
struct ResultBlock {
    Sum* c;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t cols;
    Sum alpha;
    bool accumulate;
};

/// Element is the stored type (BF16 as its 16 bits), Sum the type of accumulators and results.
template <class Element, class Sum>
struct MicroKernel {
    std::size_t left_bytes;        ///< of a packed block of the left operand
    std::size_t right_bytes;       ///< of a packed block of the right operand
    bool packs_ahead;              ///< `multiply` obeys Ahead::blocks
    bool adds_terms;               ///< `multiply` obeys StripProduct::more
    bool left_is_plain;            ///< a packed left block is 32 x 32 elements by rows: such memory needs no packing
    std::int64_t panel_depth;      ///< longest k for which a strip stays in the cache that feeds the kernel (L1;
                                   ///< L2 for AMX); a multiple of 32
    std::size_t left_block_bytes;  ///< of left strips that stay in L2 together
    Pack<Element> pack_left;
    Pack<Element> pack_right;
    void (*multiply)(const StripProduct<Sum>& product);
    /// Products of at most `few_rows` rows can do without packing: left [rows, k] is contiguous, right is read where it
    /// is stored, in blocks of 32 elements of k that begin `step` elements apart.
    std::int64_t few_rows;
    void (*multiply_few_rows)(std::int64_t k, const Sum* left, const Operand<Element>& right, std::int64_t step,
                              const ResultBlock<Sum>& result);
    /// Processor state around calls of `multiply`; null where there is none.
    void (*begin)();
    void (*end)();
};

using FloatKernel = MicroKernel<float, float>;
using Bf16Kernel = MicroKernel<std::uint16_t, float>;
using DoubleKernel = MicroKernel<double, double>;

namespace detail {

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

/// Blocks [32 vectors][32 of k]: two AMX tiles of the left operand.
void pack_vectors_of_32(void* strip, const Operand<std::uint16_t>& operand);
/// Blocks [2][16 pairs of k][16 vectors][2]: two AMX tiles of the right operand (VNNI).
void pack_pairs(void* strip, const Operand<std::uint16_t>& operand);
/// `Bf16Kernel::multiply_few_rows` by widening to FP32.
void multiply_few_rows_avx512(std::int64_t k, const float* left, const Operand<std::uint16_t>& right, std::int64_t step,
                              const ResultBlock<float>& result);

}  // namespace detail
}  // namespace moesaic::kernels
