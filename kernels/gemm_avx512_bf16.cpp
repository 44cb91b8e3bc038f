// Products of BF16 by AVX512_BF16, which multiplies pairs along k and sums in FP32. Panels are those of AMX. Compiled
// for this instruction set: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512_bf16 {
namespace {

#include "kernels/detail/vector_avx512.inc"

constexpr int peak_sums = 16;

#include "kernels/detail/peak_loops.inc"
#include "kernels/detail/prefetch.inc"

constexpr int panel_vectors = 2;
constexpr std::int64_t pairs_per_block = 16;
constexpr std::int64_t block_bytes = 2048;
constexpr std::int64_t line_bytes = 64;

/// Rows whose sums are in registers at a time, of which there are 32: with the columns and a factor they are all in
/// use, and enough sums are independent to hide the latency of a product.
constexpr int rows_at_once(int vectors) {
    return vectors == 1 ? 16 : 12;
}
constexpr int most_sums = 24;

inline __m512bh pairs(__m512i words) {
    __m512bh result;
    __builtin_memcpy(&result, &words, sizeof(result));
    return result;
}
inline __m512bh load_pairs(const char* source) {
    return pairs(_mm512_loadu_si512(source));
}

/// Side work of a product, block after block of its k.
class Fetch {
public:
    explicit Fetch(const SideWork* side)
        : side_(side != nullptr && side->fetch.count > 0 ? side : nullptr),
          next_(side_ == nullptr ? nullptr : static_cast<const char*>(side->fetch.first)) {}
    void next_block() {
        if (next_ != nullptr) {
            prefetch_to_l2(next_, side_->first_line, side_->last_line);
            next_ += side_->fetch.step;
        }
    }

private:
    const SideWork* side_;
    const char* next_;
};

/// `left` starts at the first of `rows` vectors within blocks [32 vectors][32]; blocks of the right operand are [2][16
/// pairs][16][2]. Sums go on from C, so that they do not depend on how k is cut into panels.
template <int rows, int vectors>
void multiply_rows(const StripProduct<float>& product, const char* left, Fetch fetch, float* c) {
    const auto* right = static_cast<const char*>(product.term.right);
    static_assert(rows * vectors <= most_sums);
    __m512 sums[most_sums];
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            sums[row * vectors + v] =
                product.accumulate ? _mm512_loadu_ps(c + row * product.stride + v * lanes) : _mm512_setzero_ps();
        }
    }
    for (std::int64_t k = 0; k < product.term.k; k += kernel_block, left += block_bytes, right += block_bytes) {
        fetch.next_block();
        for (std::int64_t pair = 0; pair < pairs_per_block; ++pair) {
            __m512bh columns[panel_vectors];
            for (int v = 0; v < vectors; ++v) {
                columns[v] = load_pairs(right + v * (block_bytes / 2) + pair * line_bytes);
            }
            for (int row = 0; row < rows; ++row) {
                int factor = 0;
                __builtin_memcpy(&factor, left + row * line_bytes + pair * 4, sizeof(factor));
                const __m512bh factors = pairs(_mm512_set1_epi32(factor));
                for (int v = 0; v < vectors; ++v) {
                    __m512& sum = sums[row * vectors + v];
                    sum = _mm512_dpbf16_ps(sum, columns[v], factors);
                }
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < vectors; ++v) {
            _mm512_storeu_ps(c + row * product.stride + v * lanes, sums[row * vectors + v]);
        }
    }
}

/// Calls the instance of a row count known at compile time.
template <int rows, int vectors>
void multiply_at_most(std::int64_t count, const StripProduct<float>& product, const char* left, Fetch fetch, float* c) {
    if (count >= rows) {
        multiply_rows<rows, vectors>(product, left, fetch, c);
    } else if constexpr (rows > 1) {
        multiply_at_most<rows - 1, vectors>(count, product, left, fetch, c);
    }
}

template <int vectors>
void multiply_strip(const StripProduct<float>& product) {
    constexpr int step = rows_at_once(vectors);
    const auto* left = static_cast<const char*>(product.term.left);
    for (std::int64_t row = 0; row < product.rows; row += step) {
        multiply_at_most<step, vectors>(product.rows - row, product, left + row * line_bytes,
                                        Fetch(row == 0 ? product.side : nullptr), product.c + row * product.stride);
    }
}

/// The sums of the lanes of four vectors.
inline __m128 sums_of_lanes(const __m512* four) {
    const __m512 first = _mm512_add_ps(_mm512_unpacklo_ps(four[0], four[1]), _mm512_unpackhi_ps(four[0], four[1]));
    const __m512 second = _mm512_add_ps(_mm512_unpacklo_ps(four[2], four[3]), _mm512_unpackhi_ps(four[2], four[3]));
    const __m512 low = _mm512_shuffle_ps(first, second, 0x44);
    const __m512 high = _mm512_shuffle_ps(first, second, 0xee);
    const __m512 all = _mm512_add_ps(low, high);
    const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

constexpr int few_columns = 8;

/// Rows by few columns, whose dot products are under way together.
constexpr int rows_by_few(int cols) {
    return cols == 1 ? 16 : cols <= 3 ? 8 : cols <= 6 ? 4 : 2;
}

/// Both operands start at the first of `rows` and `cols` vectors within blocks [32 vectors][32].
template <int rows, int cols>
void add_dot_products(const StripProduct<float>& product, const char* left, Fetch fetch, float* c) {
    constexpr int count = rows * cols;
    static_assert(count <= most_sums && most_sums % 4 == 0);
    const auto* right = static_cast<const char*>(product.term.right);
    __m512 sums[most_sums];  // those that are not used cost nothing
    for (__m512& sum : sums) {
        sum = _mm512_setzero_ps();
    }
    for (std::int64_t k = 0; k < product.term.k; k += kernel_block, left += block_bytes, right += block_bytes) {
        fetch.next_block();
        __m512bh columns[few_columns];
        for (int col = 0; col < cols; ++col) {
            columns[col] = load_pairs(right + col * line_bytes);
        }
        for (int row = 0; row < rows; ++row) {
            const __m512bh factors = load_pairs(left + row * line_bytes);
            for (int col = 0; col < cols; ++col) {
                sums[row * cols + col] = _mm512_dpbf16_ps(sums[row * cols + col], columns[col], factors);
            }
        }
    }
    alignas(16) float totals[most_sums];
    for (int i = 0; i < count; i += 4) {
        _mm_store_ps(totals + i, sums_of_lanes(sums + i));
    }
    for (int row = 0; row < rows; ++row) {
        for (int col = 0; col < cols; ++col) {
            float& sum = c[row * product.stride + col];
            sum = product.accumulate ? sum + totals[row * cols + col] : totals[row * cols + col];
        }
    }
}

template <int cols>
void multiply_by_few(const StripProduct<float>& product) {
    if (product.cols < cols) {
        if constexpr (cols > 1) {
            multiply_by_few<cols - 1>(product);
        }
        return;
    }
    constexpr int step = rows_by_few(cols);
    const auto* left = static_cast<const char*>(product.term.left);
    for (std::int64_t row = 0; row < product.rows; row += step) {
        add_dot_products<step, cols>(product, left + row * line_bytes, Fetch(row == 0 ? product.side : nullptr),
                                     product.c + row * product.stride);
    }
}

void multiply_few_columns(const StripProduct<float>& product) {
    multiply_by_few<few_columns>(product);
    if (product.more.k > 0) {
        multiply_few_columns({product.rows, product.cols, product.more, product.c, product.stride, true});
    }
}

void multiply(const StripProduct<float>& product) {
    product.cols > lanes ? multiply_strip<2>(product) : multiply_strip<1>(product);
    if (product.more.k > 0) {
        multiply({product.rows, product.cols, product.more, product.c, product.stride, true});
    }
}

/// Pairs of 0.75 and -0.625 by themselves: every lane of every sum grows by the same, exact amount.
float multiply_pairs_in_registers(std::int64_t rounds) {
    const __m512bh factors = pairs(_mm512_set1_epi32(static_cast<int>(0xbf203f40U)));
    return repeat_in_registers(rounds, [=](Vector sum) { return _mm512_dpbf16_ps(sum, factors, factors); });
}

}  // namespace

constinit const micro_kernel_t<bf16> gemm_bf16 = {
    .block_depth = kernel_block,
    .left_bytes = block_bytes,
    .right_bytes = block_bytes,
    .left_is_plain = true,
    .right_is_pairs = true,
    .panel_depth = 256,
    .unpacked_depth = 256,
    .left_block_bytes = 1U << 20U,
    .pack_left = pack_vectors_of_32,
    .pack_right = pack_pairs,
    .multiply = multiply,
    .few_rows = 0,
    .multiply_few_rows = nullptr,
    .state = {},
    .few_columns = few_columns,
    .multiply_few_columns = multiply_few_columns,
};
constinit const Peak peak = {2.0 * 2 * lanes * peak_sums, multiply_pairs_in_registers, read_memory};

}  // namespace moesaic::kernels::detail::avx512_bf16
