// Products in plain C++ for any CPU: the reference of all other kernels, and the path of `compute.precision = fp32`
// where no vector level is wanted. The compiler vectorises the loops over columns.
#include <algorithm>

#include "core/scalar.hpp"
#include "kernels/detail/micro_kernel.hpp"

namespace moesaic::kernels::detail {
namespace {

float widen(std::uint16_t bits) {
    return static_cast<float>(core::bf16::from_bits(bits));
}
float widen(float value) {
    return value;
}
double widen(double value) {
    return value;
}

/// Panels of `width` vectors as [k][width], BF16 widened.
template <int width, class Element, class Sum>
void pack(void* panels, const Operand<Element>& operand) {
    auto* target = static_cast<Sum*>(panels);
    const std::int64_t step_i = operand.k_contiguous ? operand.stride : 1;
    const std::int64_t step_k = operand.k_contiguous ? 1 : operand.stride;
    for (std::int64_t i = 0; i < operand.count; i += width, target += width * operand.k) {
        const std::int64_t count = std::min<std::int64_t>(width, operand.count - i);
        const Element* source = operand.data + i * step_i;
        for (std::int64_t kk = 0; kk < operand.k; ++kk) {
            Sum* row = target + kk * width;
            for (std::int64_t w = 0; w < count; ++w) {
                row[w] = widen(source[w * step_i + kk * step_k]);
            }
            std::fill(row + count, row + width, Sum{0});
        }
    }
}

template <std::size_t rows, std::size_t cols, class Sum>
void multiply(std::int64_t k, const void* left_panel, const void* right_panel, const ResultBlock<Sum>& result) {
    const auto* left = static_cast<const Sum*>(left_panel);
    const auto* right = static_cast<const Sum*>(right_panel);
    Sum sums[rows][cols] = {};
    for (std::int64_t kk = 0; kk < k; ++kk, left += rows, right += cols) {
        for (std::size_t row = 0; row < rows; ++row) {
            for (std::size_t col = 0; col < cols; ++col) {
                sums[row][col] += left[row] * right[col];
            }
        }
    }
    for (std::int64_t row = 0; row < result.rows; ++row) {
        Sum* c = result.c + row * result.stride;
        for (std::int64_t col = 0; col < result.cols; ++col) {
            const Sum value = result.alpha * sums[row][col];
            c[col] = result.accumulate ? c[col] + value : value;
        }
    }
}

template <class Element, class Sum>
constexpr MicroKernel<Element, Sum> describe() {
    // 4 x 8 floats or 4 x 4 doubles: eight 128-bit accumulators, the half of the registers of x86-64.
    constexpr int rows = 4;
    constexpr int cols = 32 / sizeof(Sum);
    return {
        .rows = rows,
        .cols = cols,
        .depth_step = 1,
        .panel_depth = 256,
        .block_depth = 1024,
        .left_block_bytes = 1U << 18U,
        .packed_size = sizeof(Sum),
        .pack_left = pack<rows, Element, Sum>,
        .pack_right = pack<cols, Element, Sum>,
        .multiply = multiply<rows, cols, Sum>,
        .few_rows = 0,
        .multiply_few_rows = nullptr,
        .begin = nullptr,
        .end = nullptr,
    };
}

}  // namespace

constinit const FloatKernel portable_float = describe<float, float>();
constinit const Bf16Kernel portable_bf16 = describe<std::uint16_t, float>();
constinit const DoubleKernel portable_double = describe<double, double>();

}  // namespace moesaic::kernels::detail
