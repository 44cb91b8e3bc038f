// Products in plain C++ for any CPU: the reference of all other kernels, and the path of `compute.precision = fp32`
// where no vector level is wanted. The compiler vectorises the loops over columns.
#include <algorithm>

#include "core/scalar.hpp"
#include "kernels/detail/entries.hpp"

namespace moesaic::kernels::detail::portable {
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
std::int32_t widen(int8 value) {
    return value;
}

/// Blocks of 32 vectors as panels [k][width] of what they are packed as: BF16 is widened.
template <int width, class Element, class Packed>
void pack(void* strip, const Operand<Element>& operand) {
    const std::int64_t step_i = operand.k_contiguous ? operand.stride : 1;
    const std::int64_t step_k = operand.k_contiguous ? 1 : operand.stride;
    auto* block = static_cast<Packed*>(strip);
    for (std::int64_t k = 0; k < operand.k; k += kernel_block, block += kernel_block * kernel_block) {
        const std::int64_t depth = std::min(kernel_block, operand.k - k);
        for (std::int64_t i = 0; i < kernel_block; i += width) {
            const std::int64_t count = std::clamp<std::int64_t>(operand.count - i, 0, width);
            const Element* source = operand.data + i * step_i + k / kernel_block * operand.step;
            Packed* target = block + i * kernel_block;
            for (std::int64_t kk = 0; kk < kernel_block; ++kk, target += width) {
                const std::int64_t present = kk < depth ? count : 0;
                for (std::int64_t w = 0; w < present; ++w) {
                    target[w] = static_cast<Packed>(widen(source[w * step_i + kk * step_k]));
                }
                std::fill(target + present, target + width, Packed{0});
            }
        }
    }
}

/// One register block from one panel of each operand.
template <std::size_t rows, std::size_t cols, class Packed, class Sum>
void multiply_panels(std::int64_t k, const Packed* left, const Packed* right, Sum* c, std::int64_t stride,
                     bool accumulate) {
    Sum sums[rows][cols] = {};
    for (std::int64_t block = 0; block < k; block += kernel_block) {
        const std::int64_t depth = std::min(kernel_block, k - block);
        for (std::int64_t kk = 0; kk < depth; ++kk) {
            const Packed* factors = left + block * kernel_block + kk * static_cast<std::int64_t>(rows);
            const Packed* columns = right + block * kernel_block + kk * static_cast<std::int64_t>(cols);
            for (std::size_t row = 0; row < rows; ++row) {
                for (std::size_t col = 0; col < cols; ++col) {
                    sums[row][col] += static_cast<Sum>(factors[row]) * static_cast<Sum>(columns[col]);
                }
            }
        }
    }
    for (std::size_t row = 0; row < rows; ++row, c += stride) {
        for (std::size_t col = 0; col < cols; ++col) {
            c[col] = accumulate ? c[col] + sums[row][col] : sums[row][col];
        }
    }
}

template <int rows, int cols, class Packed, class Sum>
void multiply(const StripProduct<Sum>& product) {
    const auto* left = static_cast<const Packed*>(product.term.left);
    const auto* right = static_cast<const Packed*>(product.term.right);
    for (std::int64_t col = 0; col < product.cols; col += cols) {
        for (std::int64_t row = 0; row < product.rows; row += rows) {
            multiply_panels<rows, cols>(product.term.k, left + row * kernel_block, right + col * kernel_block,
                                        product.c + row * product.stride + col, product.stride, product.accumulate);
        }
    }
    if (product.more.k > 0) {
        multiply<rows, cols, Packed, Sum>({product.rows, product.cols, product.more, product.c, product.stride, true});
    }
}

template <class Element, class Sum, class Packed = Sum>
constexpr MicroKernel<Element, Sum> describe() {
    // 4 x 8 floats or integers, or 4 x 4 doubles: eight 128-bit accumulators, the half of the registers of x86-64.
    constexpr int rows = 4;
    constexpr int cols = 32 / sizeof(Sum);
    return {
        .block_depth = kernel_block,
        .left_bytes = kernel_block * kernel_block * sizeof(Packed),
        .right_bytes = kernel_block * kernel_block * sizeof(Packed),
        .left_is_plain = false,
        .right_is_pairs = false,
        .panel_depth = 128,
        .unpacked_depth = 128,
        .left_block_bytes = 1U << 18U,
        .pack_left = pack<rows, Element, Packed>,
        .pack_right = pack<cols, Element, Packed>,
        .multiply = multiply<rows, cols, Packed, Sum>,
        .few_rows = 0,
        .multiply_few_rows = nullptr,
        .state = {},
    };
}

// Vectors of the compiler's own, for the loops that measure what it makes of plain C++.
constexpr int lanes = 4;
using Vector = float __attribute__((vector_size(lanes * sizeof(float))));
constexpr int peak_sums = 12;  // with two operands they fill most of 16 registers
struct All {};
Vector load(const float* source, All) {
    Vector values;
    __builtin_memcpy(&values, source, sizeof(values));
    return values;
}
Vector broadcast(float value) {
    return Vector{} + value;
}
Vector multiply_add(Vector a, Vector b, Vector c) {
    return a * b + c;
}

#include "kernels/detail/peak_loops.inc"

}  // namespace

constinit const micro_kernel_t<bf16> gemm_bf16 = describe<std::uint16_t, float>();
constinit const micro_kernel_t<float> gemm_float = describe<float, float>();
constinit const micro_kernel_t<double> gemm_double = describe<double, double>();
constinit const micro_kernel_t<int8> gemm_int8 = describe<int8, std::int32_t, int8>();
constinit const Peak peak = {2.0 * lanes * peak_sums, multiply_add_in_registers, read_memory};

}  // namespace moesaic::kernels::detail::portable
