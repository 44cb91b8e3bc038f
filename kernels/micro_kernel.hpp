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

/// Whole numbers, as which quantised operands are multiplied.
using int8 = std::int8_t;

/// Products are computed in blocks of this many rows, columns and elements of k.
constexpr std::int64_t kernel_block = 32;

/// `count` vectors of length k, the rows of op(A) or the columns of op(B). `stride` elements lie between two vectors if
/// the elements of one are contiguous (`k_contiguous`), else between two elements of one vector; `step` between the
/// first of 32 elements of k and the first of the next 32, which may be stored in blocks.
template <class Element>
struct Operand {
    const Element* data;
    std::int64_t stride;
    bool k_contiguous;
    std::int64_t count;
    std::int64_t k;
    std::int64_t step;
};

/// Packs at most 32 vectors into a strip: one packed block of 32 vectors x `block_depth` elements of k after the other.
/// Missing elements of k up to whole blocks become zeros, as do missing vectors up to a multiple of 16.
template <class Element>
using Pack = void (*)(void* strip, const Operand<Element>& operand);

/// Plain blocks of 32 x 32 elements by rows, `step` bytes apart.
struct PlainBlocks {
    const void* first;
    std::int64_t step;
    std::int64_t count;
};

/// What products may do on the side for those to come, a block for each 32 elements of their k: products of few rows
/// are bound by memory, and packing uses other ports than multiplication does, so that neither should wait for the
/// other. Several products share it: each takes on some rows of every block. A kernel may leave any of it undone.
struct SideWork {
    PlainBlocks fetch;  ///< to bring to the L2 cache, of whatever format; also beyond the last one
    PlainBlocks pack;   ///< to pack into the right strip `strip`, with their rows as k
    void* strip;
    std::int64_t first_line;  ///< the share of the next product: cache lines [first_line, last_line) of each to fetch
    std::int64_t last_line;
    std::int64_t first_row;  ///< and rows [first_row, last_row) of each to pack
    std::int64_t last_row;
    std::int64_t packed;  ///< set by products: of how many blocks each has packed its share; 0 says of none
};

/// Packed strips that are multiplied.
struct StripTerm {
    const void* left;
    const void* right;
    std::int64_t k;  ///< 0 says none
};

/// C[rows, cols] = L[rows, k] R[k, cols] of one term, or two, added to C if `accumulate`; at most 32 rows and columns.
/// Whole groups of 16 rows and columns are computed, so that C must have room for them.
template <class Sum>
struct StripProduct {
    std::int64_t rows;
    std::int64_t cols;
    StripTerm term;
    Sum* c;
    std::int64_t stride;
    bool accumulate;
    StripTerm more = {};
    SideWork* side = nullptr;
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

/// State of the calling thread's processor that products need; null where there is none. See ProcessorScope.
struct ProcessorState {
    void (*enter)();
    void (*leave)();
};
inline constexpr ProcessorState no_state = {nullptr, nullptr};

/// Element is the stored type (BF16 as its 16 bits), Sum the type of accumulators and results. Sums of whole numbers
/// are exact for k up to 2^16.
template <class Element, class Sum>
struct MicroKernel {
    std::int64_t block_depth;  ///< elements of k of a packed block: 32, or 64
    std::size_t left_bytes;    ///< of a packed block of the left operand
    std::size_t right_bytes;   ///< of a packed block of the right operand
    bool left_is_plain;        ///< a packed left block is 32 x 32 elements by rows: such memory needs no packing
    bool right_is_pairs;       ///< a packed right block is 32 rows, its k, in WeightOrder::pairs
    std::int64_t panel_depth;  ///< longest k for which a strip stays in the cache that feeds the kernel (L1 or L2); a
                               ///< multiple of block_depth
    std::int64_t unpacked_depth;   ///< the same of strips that are unpacked just before, for one or two of the other
                                   ///< operand; results of products must not depend on which of both is taken
    std::size_t left_block_bytes;  ///< of left strips that stay in L2 together
    Pack<Element> pack_left;
    Pack<Element> pack_right;
    void (*multiply)(const StripProduct<Sum>& product);
    /// Products of at most `few_rows` rows can do without packing: left [rows, k] is contiguous, right is read where it
    /// is stored.
    std::int64_t few_rows;
    void (*multiply_few_rows)(const Sum* left, const Operand<Element>& right, const ResultBlock<Sum>& result);
    ProcessorState state;                              ///< around calls of `multiply`
    std::int64_t token_bytes = std::int64_t{1} << 20;  ///< of strips of tokens that stay in L2 while weights pass
    /// Right strips of at most `few_columns` vectors may be packed as left ones, for a product of their own, which
    /// wastes no lanes on missing columns. Packed blocks of both operands are of one size then.
    std::int64_t few_columns = 0;
    void (*multiply_few_columns)(const StripProduct<Sum>& product) = nullptr;
};

/// How micro-kernels see elements of type Scalar, BF16 as its 16 bits, and the type of their sums.
template <class Scalar>
struct Stored {
    using Element = Scalar;
    using Sum = Scalar;
};
template <>
struct Stored<core::bf16> {
    using Element = std::uint16_t;
    using Sum = float;
};
template <>
struct Stored<int8> {
    using Element = int8;
    using Sum = std::int32_t;
};
template <class Scalar>
using stored_t = typename Stored<Scalar>::Element;
template <class Scalar>
using micro_kernel_t = MicroKernel<stored_t<Scalar>, typename Stored<Scalar>::Sum>;

/// Loops of a level whose rates nothing exceeds: its multiply-adds for BF16 in registers, and its widest loads.
/// Described in kernels/peak.hpp.
struct Peak {
    double operations;
    float (*run)(std::int64_t rounds);
    float (*read)(const float* data, std::int64_t count);
};

}  // namespace moesaic::kernels
