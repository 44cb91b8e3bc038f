// Elementwise operations by AVX-512, with AVX512_BF16 and AVX512_VBMI for decoding weights to BF16. Compiled for this
// instruction set: see micro_kernel.hpp for the rules.
#include <immintrin.h>

#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::avx512_bf16 {
namespace {

#include "kernels/detail/vector_avx512.inc"

#include "kernels/detail/elementwise.inc"

// Two rows of 32 weights at a time, all of whose codes are in one register. Bytes of it are picked in the order in
// which the weights are to lie, so that both orders cost the same.

struct Bytes {
    alignas(64) std::uint8_t at[64];
};

/// The place of weight `weight` of two rows of `length` that lie in some order.
constexpr int place_of(WeightOrder order, int length, int weight) {
    return order == WeightOrder::pairs ? weight % 2 * length + weight / 2 : weight;
}

/// Indices of the codes of weights from `first` on, each `copies` times.
template <WeightOrder order, int copies, int length = row_elements>
constexpr Bytes codes_from(int first) {
    Bytes indices = {};
    for (int i = 0; i < 64; ++i) {
        indices.at[i] = static_cast<std::uint8_t>(place_of(order, length, first + i / copies));
    }
    return indices;
}

inline Words load_bytes(const Bytes& bytes) {
    return _mm512_load_si512(bytes.at);
}

inline Words round(Vector low, Vector high) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    Words words;
    __builtin_memcpy(&words, &rounded, sizeof(words));
    return words;
}

/// The instruction that rounds takes denormal numbers for zeros, and scales are multiplied by powers of two on the way.
/// Blocks with a scale so far from 1 that this could change a weight are decoded as on other CPUs.
inline bool are_usual(std::int64_t n, const float* scales) {
    constexpr int bias = 127;
    constexpr int mantissa_bits = 23;
    constexpr int smallest = (bias - 100) << mantissa_bits;
    constexpr int largest = (bias + 100) << mantissa_bits;
    __mmask16 unusual = 0;
    for_each_vector(n, [&](std::int64_t i, auto part) {
        const Words bits = _mm512_castps_si512(load(scales + i, part));
        const Words magnitudes = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
        const __mmask16 is_outside = _mm512_cmpgt_epu32_mask(_mm512_sub_epi32(magnitudes, _mm512_set1_epi32(smallest)),
                                                             _mm512_set1_epi32(largest - smallest));
        unusual |= _mm512_mask_test_epi32_mask(is_outside, magnitudes, magnitudes);  // zeros are usual
    });
    return unusual == 0;
}

/// Where two rows are written: `first` and `second` hold 32 weights each, in the order.
inline void store_two_rows(WeightOrder order, std::int64_t rows, std::int64_t row, Words first, Words second,
                           std::uint16_t* out) {
    const bool is_pair = order == WeightOrder::pairs;
    store_words(out + row * (is_pair ? row_elements / 2 : row_elements), first);
    store_words(out + (is_pair ? (rows + row) * (row_elements / 2) : (row + 1) * row_elements), second);
}

/// The scales of the first 32 weights of two rows in the order, and of the others.
struct TwoScales {
    TwoScales(WeightOrder order, const float* scales, float factor) {
        if (order == WeightOrder::pairs) {
            double both = 0;
            __builtin_memcpy(&both, scales, sizeof(both));
            first = _mm512_castpd_ps(_mm512_set1_pd(both)) * broadcast(factor);
            second = first;
        } else {
            first = broadcast(scales[0]) * broadcast(factor);
            second = broadcast(scales[1]) * broadcast(factor);
        }
    }
    Vector first;
    Vector second;
};

template <WeightOrder order, bool one_side>
void decode_rows_of_nibbles(std::int64_t rows, const std::uint8_t* codes, const float* values, const float* scales,
                            const float* zeros, std::uint16_t* out) {
    constexpr std::int64_t half = row_elements / 2;
    constexpr std::int64_t sides = one_side ? 1 : 2;
    const Vector all_values = load(values, All());
    // Each code selects the two bytes of its value from the tables of two rows, 32 bytes each.
    static constexpr Bytes pick_bytes = codes_from<order, 2, half>(0);
    static constexpr Bytes first_bytes = [] {
        Bytes bytes = {};
        for (int i = 0; i < 64; ++i) {
            bytes.at[i] = static_cast<std::uint8_t>(pick_bytes.at[i] / half * 32 + i % 2);
        }
        return bytes;
    }();
    const Words pick = load_bytes(pick_bytes);
    const Words first = load_bytes(first_bytes);
    const Words mask = _mm512_set1_epi8(15 << 1);
    constexpr int and_or = 0xea;  // (a & b) | c
    const auto table_of = [&](std::int64_t row, std::int64_t side) {
        const auto of_row = [&](std::int64_t r) {
            const Vector differences = zeros == nullptr ? all_values : all_values - broadcast(zeros[r]);
            return differences * broadcast(scales[r * sides + side]);
        };
        return round(of_row(row), of_row(row + 1));
    };
    for (std::int64_t row = 0; row < rows; row += 2) {
        const __m256i two_rows = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + row * half));
        const Words picked = _mm512_permutexvar_epi8(pick, _mm512_castsi256_si512(two_rows));
        const Words lower = _mm512_ternarylogic_epi32(_mm512_slli_epi16(picked, 1), mask, first, and_or);
        const Words upper = _mm512_ternarylogic_epi32(_mm512_srli_epi16(picked, 3), mask, first, and_or);
        const Words table = table_of(row, 0);
        const Words left = _mm512_permutexvar_epi8(lower, table);
        const Words right = _mm512_permutexvar_epi8(upper, one_side ? table : table_of(row, 1));
        if constexpr (order == WeightOrder::pairs) {
            store_two_rows(order, rows, row, left, right, out);
        } else {
            const auto store_half = [&](std::int64_t offset, __m256i words) {
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + row * row_elements + offset), words);
            };
            store_half(0, _mm512_castsi512_si256(left));
            store_half(half, _mm512_castsi512_si256(right));
            store_half(2 * half, _mm512_extracti64x4_epi64(left, 1));
            store_half(3 * half, _mm512_extracti64x4_epi64(right, 1));
        }
    }
}

template <WeightOrder order>
void decode_rows_of_integers(std::int64_t rows, const std::int8_t* codes, const float* scales, const float* zeros,
                             std::uint16_t* out) {
    static constexpr Bytes pick_bytes[4] = {codes_from<order, 4>(0), codes_from<order, 4>(lanes),
                                            codes_from<order, 4>(2 * lanes), codes_from<order, 4>(3 * lanes)};
    const Words pick[4] = {load_bytes(pick_bytes[0]), load_bytes(pick_bytes[1]), load_bytes(pick_bytes[2]),
                           load_bytes(pick_bytes[3])};
    constexpr __mmask64 highest_bytes = 0x8888888888888888;  // a code there is a number times 2^24
    constexpr float all_bits = 0x1p24F;
    for (std::int64_t row = 0; row < rows; row += 2) {
        const Words two_rows = _mm512_loadu_si512(codes + row * row_elements);
        const TwoScales row_scales(order, scales + row, 1 / all_bits);
        const auto weights = [&](int i) {
            Vector numbers = _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(highest_bytes, pick[i], two_rows));
            if (zeros != nullptr) {
                const TwoScales row_zeros(order, zeros + row, all_bits);
                numbers = numbers - (i < 2 ? row_zeros.first : row_zeros.second);
            }
            return numbers * (i < 2 ? row_scales.first : row_scales.second);
        };
        store_two_rows(order, rows, row, round(weights(0), weights(1)), round(weights(2), weights(3)), out);
    }
}

/// See load_e4m3 of vector_avx512.inc.
template <WeightOrder order>
void decode_rows_of_e4m3(std::int64_t rows, const std::uint8_t* codes, const float* scales, std::uint16_t* out) {
    static constexpr Bytes pick_bytes[2] = {codes_from<order, 2>(0), codes_from<order, 2>(2 * lanes)};
    const Words pick[2] = {load_bytes(pick_bytes[0]), load_bytes(pick_bytes[1])};
    const Words sign_and_fields = _mm512_set1_epi16(static_cast<short>(0xbf80U));
    for (std::int64_t row = 0; row < rows; row += 2) {
        const Words two_rows = _mm512_loadu_si512(codes + row * row_elements);
        const TwoScales row_scales(order, scales + row, 256.0F);
        const auto weights = [&](Words index, Vector of_them) {
            const Words picked = _mm512_permutexvar_epi8(index, two_rows);
            const Words halves = _mm512_and_si512(_mm512_srai_epi16(picked, 1), sign_and_fields);
            return round(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)) * of_them,
                         _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)) * of_them);
        };
        store_two_rows(order, rows, row, weights(pick[0], row_scales.first), weights(pick[1], row_scales.second), out);
    }
}

/// Calls body(order) with the order as a constant.
template <WeightOrder value>
struct Order {
    static constexpr WeightOrder order = value;
};
template <class Body>
inline void with_order(WeightOrder order, Body body) {
    order == WeightOrder::pairs ? body(Order<WeightOrder::pairs>()) : body(Order<WeightOrder::rows>());
}

void decode_nibbles_to_bf16(std::int64_t rows, const std::uint8_t* codes, const float* values, std::int64_t sides,
                            const float* scales, const float* zeros, WeightOrder order, bf16* out) {
    if (rows % 2 != 0 || !are_usual(rows * sides, scales)) {
        decode_nibbles(rows, codes, values, sides, scales, zeros, order, out);
        return;
    }
    with_order(order, [=](auto known) {
        const auto decode =
            sides == 1 ? decode_rows_of_nibbles<known.order, true> : decode_rows_of_nibbles<known.order, false>;
        decode(rows, codes, values, scales, zeros, raw(out));
    });
}

void decode_integers_to_bf16(std::int64_t rows, const std::int8_t* codes, const float* scales, const float* zeros,
                             WeightOrder order, bf16* out) {
    if (rows % 2 != 0 || !are_usual(rows, scales)) {
        decode_integers(rows, codes, scales, zeros, order, out);
        return;
    }
    with_order(order, [=](auto known) { decode_rows_of_integers<known.order>(rows, codes, scales, zeros, raw(out)); });
}

void decode_e4m3_to_bf16(std::int64_t rows, const std::uint8_t* codes, const float* scales, WeightOrder order,
                         bf16* out) {
    if (rows % 2 != 0 || !are_usual(rows, scales)) {
        decode_e4m3(rows, codes, scales, order, out);
        return;
    }
    with_order(order, [=](auto known) { decode_rows_of_e4m3<known.order>(rows, codes, scales, raw(out)); });
}

}  // namespace

constinit const ElementwiseTable<bf16, float> elementwise_bf16 = [] {
    ElementwiseTable<bf16, float> all = table<bf16>;
    all.decode_nibbles = decode_nibbles_to_bf16;
    all.decode_integers = decode_integers_to_bf16;
    all.decode_e4m3 = decode_e4m3_to_bf16;
    return all;
}();

}  // namespace moesaic::kernels::detail::avx512_bf16
