// What one instruction set contributes to matrix products: packing of operands and products of packed strips.
//
// A file that is compiled for later CPUs obeys three rules, which tests/layers/check_layers.cmake enforces. An inline
// function compiled in it might otherwise be the copy that the linker keeps for the whole program, which then faults on
// other CPUs.
// - It includes <immintrin.h> and the like, <cstdint>, <cstddef>, detail/entries.hpp and .inc files, and nothing else.
// - These headers, this one among them, hold plain data and declarations, no inline functions.
// - Its own functions are in an anonymous namespace, those in .inc files by being included there, but for what
//   detail/entries.hpp declares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moesaic::core {
class bf16;
}

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

/// How micro-kernels see elements of type T, BF16 as its 16 bits, and the type of their sums.
template <class T>
struct Stored {
    using Element = T;
    using Sum = T;
};
template <>
struct Stored<core::bf16> {
    using Element = std::uint16_t;
    using Sum = float;
};
template <class T>
using stored_t = typename Stored<T>::Element;
template <class T>
using micro_kernel_t = MicroKernel<stored_t<T>, typename Stored<T>::Sum>;

/// Loops of a level whose rates nothing exceeds: its multiply-adds for BF16 in registers, and its widest loads.
/// Described in kernels/peak.hpp.
struct Peak {
    double operations;
    float (*run)(std::int64_t rounds);
    float (*read)(const float* data, std::int64_t count);
};

}  // namespace moesaic::kernels
