// Products of whole numbers by AVX512_VNNI, which multiplies four unsigned bytes by four signed ones along k and sums
// in 32 bits. Panels are those of AMX. Compiled for this instruction set: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512_vnni {
namespace {

#include "kernels/detail/prefetch.inc"

constexpr int lanes = 16;
constexpr int half_rows = 8;  // 8 x 32 accumulators at a time
constexpr int panel_vectors = 2;
constexpr std::int64_t block_depth = 64;
constexpr std::int64_t quads_per_block = 16;
constexpr std::int64_t block_bytes = 2048;

using Product = StripProduct<std::int32_t>;

/// What the left operand, which is packed plus 128, makes of each column too much, negated: -128 times the sum of the
/// column.
template <int vectors>
void sum_columns(const StripTerm& term, __m512i (&sums)[panel_vectors]) {
    const __m512i all = _mm512_set1_epi8(static_cast<char>(0x80));
    for (int v = 0; v < vectors; ++v) {
        const auto* right = static_cast<const char*>(term.right) + v * (block_bytes / 2);
        __m512i sum = _mm512_setzero_si512();
        for (std::int64_t k = 0; k < term.k; k += block_depth, right += block_bytes) {
            for (std::int64_t quad = 0; quad < quads_per_block; ++quad) {
                sum = _mm512_dpbusd_epi32(sum, all, _mm512_loadu_si512(right + quad * 64));
            }
        }
        sums[v] = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
    }
}

/// `left` starts at the first of `rows` vectors within blocks [32 vectors][64]. `fetch` is none, or the side work of
/// the product.
template <int rows, int vectors>
void multiply_rows(const Product& product, const char* left, const __m512i (&start)[panel_vectors],
                   const SideWork* fetch, std::int32_t* c) {
    const auto* fetched = fetch == nullptr ? nullptr : static_cast<const char*>(fetch->fetch.first);
    const auto* right = static_cast<const char*>(product.term.right);
    __m512i sums[half_rows][panel_vectors];
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            sums[row][v] = start[v];
        }
    }
    for (std::int64_t k = 0; k < product.term.k; k += block_depth, left += block_bytes, right += block_bytes) {
        if (fetched != nullptr) {
            for (int half = 0; half < 2; ++half, fetched += fetch->fetch.step) {
                prefetch_to_l2(fetched, fetch->first_line, fetch->last_line);
            }
        }
        for (std::int64_t quad = 0; quad < quads_per_block; ++quad) {
            __m512i columns[panel_vectors];
            for (int v = 0; v < vectors; ++v) {
                columns[v] = _mm512_loadu_si512(right + v * (block_bytes / 2) + quad * 64);
            }
            for (int row = 0; row < rows; ++row) {
                int factors = 0;
                __builtin_memcpy(&factors, left + row * block_depth + quad * 4, sizeof(factors));
                const __m512i factor = _mm512_set1_epi32(factors);
                for (int v = 0; v < vectors; ++v) {
                    sums[row][v] = _mm512_dpbusd_epi32(sums[row][v], factor, columns[v]);
                }
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            std::int32_t* target = c + row * product.stride + v * lanes;
            const __m512i sum = sums[row][v];
            _mm512_storeu_si512(target, product.accumulate ? _mm512_add_epi32(_mm512_loadu_si512(target), sum) : sum);
        }
    }
}

/// Calls the instance of a row count known at compile time.
template <int rows, int vectors>
void multiply_at_most(std::int64_t count, const Product& product, const char* left,
                      const __m512i (&start)[panel_vectors], const SideWork* fetch, std::int32_t* c) {
    if (count >= rows) {
        multiply_rows<rows, vectors>(product, left, start, fetch, c);
    } else if constexpr (rows > 1) {
        multiply_at_most<rows - 1, vectors>(count, product, left, start, fetch, c);
    }
}

template <int vectors>
void multiply_columns(const Product& product) {
    __m512i start[panel_vectors];
    sum_columns<vectors>(product.term, start);
    const auto* left = static_cast<const char*>(product.term.left);
    const SideWork* fetch = product.side != nullptr && product.side->fetch.count > 0 ? product.side : nullptr;
    for (std::int64_t row = 0; row < product.rows; row += half_rows, left += half_rows * block_depth) {
        multiply_at_most<half_rows, vectors>(product.rows - row, product, left, start, row == 0 ? fetch : nullptr,
                                             product.c + row * product.stride);
    }
}

void multiply(const Product& product) {
    if (product.cols > lanes) {
        multiply_columns<2>(product);
    } else {
        multiply_columns<1>(product);
    }
    if (product.more.k > 0) {
        multiply({product.rows, product.cols, product.more, product.c, product.stride, true});
    }
}

constexpr micro_kernel_t<int8> describe(Pack<int8> pack_right) {
    return {
        .block_depth = block_depth,
        .left_bytes = block_bytes,
        .right_bytes = block_bytes,
        .left_is_plain = false,
        .right_is_pairs = false,
        .panel_depth = 1024,
        .unpacked_depth = 1024,
        .left_block_bytes = 1U << 20U,
        .pack_left = pack_vectors_of_64_above_zero,
        .pack_right = pack_right,
        .multiply = multiply,
        .few_rows = 0,
        .multiply_few_rows = nullptr,
        .state = {},
    };
}

}  // namespace

constinit const micro_kernel_t<int8> gemm_int8 = describe(pack_quads);

}  // namespace moesaic::kernels::detail::avx512_vnni

namespace moesaic::kernels::detail::avx512_vbmi {

constinit const micro_kernel_t<int8> gemm_int8 = avx512_vnni::describe(pack_quads_of_blocks);

}  // namespace moesaic::kernels::detail::avx512_vbmi
