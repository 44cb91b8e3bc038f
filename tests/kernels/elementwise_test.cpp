// Every implementation of the elementwise operations that this machine runs, against the portable one. Arrays end at
// inaccessible pages.
#include "kernels/elementwise.hpp"
#include "kernels/kernel_set.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <string>
#include <variant>

#include "elementwise_problem.hpp"

namespace moesaic::kernels::test {
namespace {

using AnyImplementation =
    std::variant<ElementwiseImplementation<bf16>, ElementwiseImplementation<float>, ElementwiseImplementation<double>>;

std::vector<AnyImplementation> all_implementations() {
    std::vector<AnyImplementation> all;
    const auto append = [&](const auto& list) { all.insert(all.end(), list.begin(), list.end()); };
    append(elementwise_kernels<bf16>());
    append(elementwise_kernels<float>());
    append(elementwise_kernels<double>());
    return all;
}

template <class Scalar>
std::string type_name() {
    return std::is_same_v<Scalar, bf16> ? "bf16" : std::is_same_v<Scalar, float> ? "float" : "double";
}

std::string implementation_name(const testing::TestParamInfo<AnyImplementation>& info) {
    return std::visit(
        []<class Scalar>(const ElementwiseImplementation<Scalar>& implementation) {
            return type_name<Scalar>() + "_" + std::string(implementation.name);
        },
        info.param);
}

class Elementwise : public testing::TestWithParam<AnyImplementation> {
protected:
    void SetUp() override {
        const Isa isa = std::visit([](const auto& implementation) { return implementation.isa; }, GetParam());
        if (!runs(isa)) {
            GTEST_SKIP() << "this machine does not run " << name(isa);
        }
    }

    /// Calls check(kernels, portable, n, Scalar()) for all sizes.
    template <class Check>
    void for_all_sizes(Check check) {
        std::visit(
            [&]<class Scalar>(const ElementwiseImplementation<Scalar>& implementation) {
                for (const index_t n : sizes) {
                    SCOPED_TRACE(testing::Message() << n << " elements");
                    check(*implementation.kernels, *elementwise_kernels<Scalar>().front().kernels, n, Scalar());
                    if (HasFatalFailure()) {
                        return;
                    }
                }
            },
            GetParam());
    }
};

TEST_P(Elementwise, NarrowAndWiden) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto in = values<Sum>(n, 1, true);
        GuardedArray<Scalar> narrow(n);
        GuardedArray<Scalar> expected_narrow(n);
        kernels.narrow(n, in.data(), narrow.data());
        portable.narrow(n, in.data(), expected_narrow.data());
        expect_same(narrow, expected_narrow);
        GuardedArray<Sum> wide(n);
        GuardedArray<Sum> expected_wide(n);
        kernels.widen(n, narrow.data(), wide.data());
        portable.widen(n, narrow.data(), expected_wide.data());
        expect_same(wide, expected_wide);
    });
}

TEST_P(Elementwise, Split) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        const auto in = values<accumulator_t<Scalar>>(n, 1, true);
        GuardedArray<Scalar> high(n);
        GuardedArray<Scalar> low(n);
        GuardedArray<Scalar> expected_high(n);
        GuardedArray<Scalar> expected_low(n);
        kernels.split(n, in.data(), high.data(), low.data());
        portable.split(n, in.data(), expected_high.data(), expected_low.data());
        expect_same(high, expected_high);
        expect_same(low, expected_low);
    });
}

TEST(ElementwiseBf16, PartsOfASplitAddUpToSixteenBits) {
    const std::array<float, 5> in = {1.0F, 1.00390625F, 0.1F, -3.14159274F, 1e30F};
    std::array<bf16, 5> high{};
    std::array<bf16, 5> low{};
    elementwise_kernels<bf16>().front().kernels->split(5, in.data(), high.data(), low.data());
    for (std::size_t i = 0; i < in.size(); ++i) {
        EXPECT_EQ(high[i].bits(), bf16(in[i]).bits());
        EXPECT_NEAR(core::widen(high[i]) + core::widen(low[i]), in[i], std::abs(in[i]) * 0x1p-17F);
    }
    EXPECT_EQ(core::widen(low[0]), 0.0F);
    EXPECT_NE(core::widen(low[2]), 0.0F);
}

TEST(ElementwiseBf16, NarrowRoundsEveryPatternToNearestEven) {
    constexpr index_t n = 1 << 16;
    for (const auto& implementation : elementwise_kernels<bf16>()) {
        if (!runs(implementation.isa)) {
            continue;
        }
        for (const std::uint32_t lower : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
            GuardedArray<float> in(n);
            GuardedArray<bf16> out(n);
            for (index_t i = 0; i < n; ++i) {
                in[i] = std::bit_cast<float>((static_cast<std::uint32_t>(i) << 16U) | lower);
            }
            implementation.kernels->narrow(n, in.data(), out.data());
            for (index_t i = 0; i < n; ++i) {
                ASSERT_EQ(out[i].bits(), bf16(in[i]).bits()) << implementation.name << ", pattern " << i << lower;
            }
        }
    }
}

TEST_P(Elementwise, Transpositions) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const index_t rows = n;
        for (const index_t cols : {0, 1, 5, 16, 35}) {
            const index_t in_stride = cols + 3;
            const index_t out_stride = rows + 2;
            const auto in = values<Sum>(stored_elements(rows, cols, in_stride), 1, true);
            const auto filled = [&]<class U>(U gap) {
                GuardedArray<U> array(stored_elements(cols, rows, out_stride));
                std::fill_n(array.data(), array.size(), gap);
                return array;
            };
            const auto narrow = filled(Scalar(Sum(5)));
            const auto expected = filled(Scalar(Sum(5)));
            kernels.transpose_narrow(rows, cols, in.data(), in_stride, narrow.data(), out_stride);
            portable.transpose_narrow(rows, cols, in.data(), in_stride, expected.data(), out_stride);
            expect_same(narrow, expected);

            const GuardedArray<Scalar> rounded(stored_elements(rows, cols, cols + 1));
            const GuardedArray<Scalar> expected_rounded(stored_elements(rows, cols, cols + 1));
            kernels.narrow_rows(rows, cols, in.data(), in_stride, rounded.data(), cols + 1);
            portable.narrow_rows(rows, cols, in.data(), in_stride, expected_rounded.data(), cols + 1);
            expect_same(rounded, expected_rounded);

            const auto source = values<Scalar>(stored_elements(rows, cols, in_stride), 2, true);
            const auto wide = filled(Sum(5));
            const auto expected_wide = filled(Sum(5));
            kernels.transpose_widen(rows, cols, source.data(), in_stride, wide.data(), out_stride);
            portable.transpose_widen(rows, cols, source.data(), in_stride, expected_wide.data(), out_stride);
            expect_same(wide, expected_wide);
        }
    });
}

TEST_P(Elementwise, SumsAndProducts) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto x = values<Sum>(n, 1, true);
        const auto sum = values<Sum>(n, 2, true);
        const auto expected_sum = values<Sum>(n, 2, true);
        kernels.add(n, x.data(), sum.data(), sum.data());
        portable.add(n, x.data(), expected_sum.data(), expected_sum.data());
        expect_same(sum, expected_sum);
        kernels.scale(n, Sum(0.3), sum.data());
        portable.scale(n, Sum(0.3), expected_sum.data());
        expect_same(sum, expected_sum);
        GuardedArray<Scalar> narrow(n);
        GuardedArray<Scalar> expected_narrow(n);
        kernels.scale_narrow(n, Sum(0.7), x.data(), narrow.data());
        portable.scale_narrow(n, Sum(0.7), x.data(), expected_narrow.data());
        expect_same(narrow, expected_narrow);

        std::vector<GuardedArray<Scalar>> rows;
        std::vector<const Scalar*> pointers;
        for (std::uint32_t j = 0; j < 9; ++j) {
            rows.push_back(values<Scalar>(n, j, true));
            pointers.push_back(rows.back().data());
        }
        for (const index_t count : {0, 1, 9}) {
            kernels.sum_rows(n, count, pointers.data(), sum.data());
            portable.sum_rows(n, count, pointers.data(), expected_sum.data());
            expect_same(sum, expected_sum);
        }
    });
}

TEST_P(Elementwise, Reductions) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto x = values<Scalar>(n, 1);
        const auto y = values<Scalar>(n, 2);
        const double magnitude = 9.0 * static_cast<double>(n);
        expect_near<Sum>(kernels.dot(n, x.data(), y.data()), portable.dot(n, x.data(), y.data()),
                         static_cast<double>(n + 1), magnitude);
        const auto wide = values<Sum>(n, 3);
        expect_near<double>(kernels.sum_of_squares(n, wide.data()), portable.sum_of_squares(n, wide.data()),
                            static_cast<double>(n + 1));
        const auto extreme = values<Sum>(n, 4, true);
        EXPECT_EQ(kernels.largest(n, extreme.data()), portable.largest(n, extreme.data()));
    });
}

TEST_P(Elementwise, LargestSkipsNan) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto&, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto in = values<Sum>(n, 1);
        std::fill_n(in.data(), n, std::numeric_limits<Sum>::quiet_NaN());
        EXPECT_EQ(kernels.largest(n, in.data()), -std::numeric_limits<Sum>::infinity());
        if (n > 0) {
            in[n / 2] = Sum(-7);
            EXPECT_EQ(kernels.largest(n, in.data()), Sum(-7));
        }
    });
}

TEST_P(Elementwise, Exp) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        for (const bool extremes : {false, true}) {
            const Sum scale = extremes ? Sum(1) : Sum(0.7);
            const auto in = values<Sum>(n, 1, extremes);
            GuardedArray<Scalar> out(n);
            GuardedArray<Scalar> expected(n);
            const Sum sum = kernels.exp(n, in.data(), scale, Sum(0.5), Sum(0.25), out.data());
            const Sum expected_sum = portable.exp(n, in.data(), scale, Sum(0.5), Sum(0.25), expected.data());
            expect_near(out, expected, 6);
            expect_near(sum, expected_sum, static_cast<double>(n + 6));
        }
    });
}

TEST_P(Elementwise, ExpOfColumns) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        for (const index_t rows : {0, 1, 32}) {
            for (const bool extremes : {false, true}) {
                const auto in = values<Sum>(stored_elements(rows, n, n + 3), 1, extremes);
                const auto shifts = values<Sum>(n, 2);
                GuardedArray<Scalar> out(stored_elements(rows, n, n + 1));
                GuardedArray<Scalar> expected(stored_elements(rows, n, n + 1));
                const auto sums = values<Sum>(n, 3);
                const auto expected_sums = values<Sum>(n, 3);
                const auto largest = values<Sum>(n, 4);
                const auto expected_largest = values<Sum>(n, 4);
                kernels.exp_columns(rows, n, in.data(), n + 3, shifts.data(), out.data(), n + 1, sums.data(),
                                    largest.data());
                portable.exp_columns(rows, n, in.data(), n + 3, shifts.data(), expected.data(), n + 1,
                                     expected_sums.data(), expected_largest.data());
                expect_near(out, expected, 6);
                expect_near(sums, expected_sums, static_cast<double>(rows + 6), 6);
                expect_same(largest, expected_largest);
            }
        }
    });
}

/// Steps through the whole range of finite results, denormal ones included.
TEST(ElementwiseFloat, ExpIsWithinTwoUnitsInTheLastPlace) {
    constexpr index_t n = 1 << 20;
    GuardedArray<float> in(n);
    GuardedArray<float> out(n);
    for (index_t i = 0; i < n; ++i) {
        in[i] = -104.5F + 193.5F * static_cast<float>(i) / static_cast<float>(n);
    }
    for (const auto& implementation : elementwise_kernels<float>()) {
        if (!runs(implementation.isa)) {
            continue;
        }
        implementation.kernels->exp(n, in.data(), 1, 0, 1, out.data());
        for (index_t i = 0; i < n; ++i) {
            const double exact = std::exp(static_cast<double>(in[i]));
            if (exact > static_cast<double>(std::numeric_limits<float>::max())) {
                ASSERT_TRUE(std::isinf(out[i]) || out[i] > 3.4e38F) << implementation.name << " at " << in[i];
                continue;
            }
            const double unit = std::exp2(std::max(std::floor(std::log2(exact)), -126.0) - 23);
            ASSERT_LE(std::abs(static_cast<double>(out[i]) - exact), 2 * unit)
                << implementation.name << " at " << in[i];
        }
    }
}

TEST_P(Elementwise, Swiglu) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        for (const bool extremes : {false, true}) {
            const auto gate = values<Sum>(n, 1, extremes);
            const auto up = values<Sum>(n, 2);
            const auto weight = values<Sum>(n, 3);
            const auto grad_out = values<Sum>(n, 4);
            std::array<GuardedArray<Scalar>, 3> actual = {GuardedArray<Scalar>(n), GuardedArray<Scalar>(n),
                                                          GuardedArray<Scalar>(n)};
            std::array<GuardedArray<Scalar>, 3> expected = {GuardedArray<Scalar>(n), GuardedArray<Scalar>(n),
                                                            GuardedArray<Scalar>(n)};
            for (const Sum* weights : {static_cast<const Sum*>(nullptr), static_cast<const Sum*>(weight.data())}) {
                kernels.swiglu_forward(n, gate.data(), up.data(), weights, actual[0].data());
                portable.swiglu_forward(n, gate.data(), up.data(), weights, expected[0].data());
                expect_near(actual[0], expected[0], 12);
            }
            for (const bool activated : {false, true}) {
                const auto run = [&](const auto& table, std::array<GuardedArray<Scalar>, 3>& out) {
                    return table.swiglu_backward(n, grad_out.data(), gate.data(), up.data(), Sum(0.7), out[0].data(),
                                                 out[1].data(), activated ? out[2].data() : nullptr);
                };
                const Sum sum = run(kernels, actual);
                const Sum expected_sum = run(portable, expected);
                if (!extremes) {
                    expect_near(sum, expected_sum, static_cast<double>(n + 8), 27.0 * static_cast<double>(n));
                }
                // 1 + g (1 - sigmoid) loses digits where it is near zero.
                expect_near(actual[0], expected[0], 16, extremes ? 1e3 : 9.0);
                expect_near(actual[1], expected[1], 12);
                if (activated) {
                    expect_near(actual[2], expected[2], 12);
                }
            }
        }
    });
}

TEST_P(Elementwise, RmsNorm) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto x = values<Sum>(n, 1);
        const auto weight = values<Sum>(n, 2);
        const auto grad_y = values<Sum>(n, 3);
        GuardedArray<Scalar> narrow(n);
        GuardedArray<Scalar> expected_narrow(n);
        const auto wide = values<Sum>(n, 1);
        const auto expected_wide = values<Sum>(n, 1);
        const double roundings = static_cast<double>(n) + 8;
        const Sum rstd = kernels.rms_norm_forward(n, x.data(), weight.data(), Sum(1e-3), narrow.data(), nullptr);
        kernels.rms_norm_forward(n, wide.data(), weight.data(), Sum(1e-3), nullptr, wide.data());
        const Sum expected_rstd = portable.rms_norm_forward(n, x.data(), weight.data(), Sum(1e-3),
                                                            expected_narrow.data(), expected_wide.data());
        if (n > 0) {
            expect_near(rstd, expected_rstd, roundings);
        }
        expect_near(narrow, expected_narrow, roundings);
        expect_near(wide, expected_wide, roundings);

        GuardedArray<Sum> grad(n);
        GuardedArray<Sum> expected_grad(n);
        kernels.rms_norm_backward(n, grad_y.data(), x.data(), weight.data(), Sum(0.8), nullptr, grad.data());
        portable.rms_norm_backward(n, grad_y.data(), x.data(), weight.data(), Sum(0.8), nullptr, expected_grad.data());
        expect_near(grad, expected_grad, roundings, 100);
        kernels.rms_norm_backward(n, grad_y.data(), x.data(), weight.data(), Sum(0.8), wide.data(), wide.data());
        portable.rms_norm_backward(n, grad_y.data(), x.data(), weight.data(), Sum(0.8), expected_wide.data(),
                                   expected_wide.data());
        expect_near(wide, expected_wide, roundings, 100);
    });
}

TEST_P(Elementwise, RotateAndBack) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto cosine = values<Sum>(n, 1);
        const auto sine = values<Sum>(n, 2);
        for (const Sum direction : {Sum(1), Sum(-1)}) {
            const auto head = values<Sum>(2 * n, 3);
            const auto expected = values<Sum>(2 * n, 3);
            kernels.rotate(n, cosine.data(), sine.data(), direction, head.data());
            portable.rotate(n, cosine.data(), sine.data(), direction, expected.data());
            expect_near(head, expected, 4, 18);
        }
    });
}

TEST_P(Elementwise, SoftmaxBackward) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        for (const bool extremes : {false, true}) {
            const auto scores = values<Sum>(n, 1, extremes);
            const auto grad = values<Sum>(n, 2);
            GuardedArray<Scalar> probabilities(n);
            GuardedArray<Scalar> expected_probabilities(n);
            GuardedArray<Scalar> grad_scores(n);
            GuardedArray<Scalar> expected_grad_scores(n);
            kernels.softmax_backward(n, scores.data(), grad.data(), Sum(0.5), Sum(3.5), Sum(0.1), probabilities.data(),
                                     grad_scores.data());
            portable.softmax_backward(n, scores.data(), grad.data(), Sum(0.5), Sum(3.5), Sum(0.1),
                                      expected_probabilities.data(), expected_grad_scores.data());
            expect_near(probabilities, expected_probabilities, 6);
            expect_near(grad_scores, expected_grad_scores, 8);
        }
    });
}

/// All codes, and scales of all sizes, in both orders.
TEST_P(Elementwise, CodesOfWeights) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t rows, Scalar) {
        using Sum = accumulator_t<Scalar>;
        constexpr index_t cols = 32;
        std::mt19937 random(7);
        GuardedArray<std::uint8_t> bytes(rows * cols);
        for (index_t i = 0; i < rows * cols; ++i) {
            bytes[i] = static_cast<std::uint8_t>(random());
            bytes[i] = static_cast<std::uint8_t>((bytes[i] & 0x7fU) == 0x7fU ? 0 : bytes[i]);  // NaN of E4M3
        }
        const GuardedArray<std::uint8_t> nibbles(rows * cols / 2);
        std::copy_n(bytes.data(), nibbles.size(), nibbles.data());
        GuardedArray<Sum> zeros(rows);
        for (index_t i = 0; i < rows; ++i) {
            zeros[i] = static_cast<Sum>(random() % 16);
        }
        const auto levels = values<Sum>(16, 3);
        for (const int largest_exponent : {30, 98, 125}) {  // the last one with denormal weights, and infinite ones
            const auto scales_of = [&](index_t sides) {
                GuardedArray<Sum> scales(sides * rows);
                for (index_t i = 0; i < sides * rows; ++i) {
                    const int exponent = static_cast<int>(random() % static_cast<unsigned>(2 * largest_exponent));
                    scales[i] = i % 11 == 5 ? Sum(0) : std::ldexp(Sum(0.7F), exponent - largest_exponent);
                }
                return scales;
            };
            const auto scales = scales_of(1);
            const auto scales_of_halves = scales_of(2);
            for (const WeightOrder order : {WeightOrder::rows, WeightOrder::pairs}) {
                if (order == WeightOrder::pairs && rows % 2 != 0) {
                    continue;
                }
                SCOPED_TRACE(testing::Message() << "order " << static_cast<int>(order));
                const auto expect_equal = [&](const auto& decode) {
                    GuardedArray<Scalar> out(rows * cols);
                    GuardedArray<Scalar> expected(rows * cols);
                    decode(kernels, out.data());
                    decode(portable, expected.data());
                    expect_same(out, expected);
                };
                for (const Sum* some_zeros : {zeros.data(), static_cast<Sum*>(nullptr)}) {
                    expect_equal([&](const auto& of, Scalar* out) {
                        of.decode_nibbles(rows, nibbles.data(), levels.data(), 1, scales.data(), some_zeros, order,
                                          out);
                    });
                    expect_equal([&](const auto& of, Scalar* out) {
                        of.decode_nibbles(rows, nibbles.data(), levels.data(), 2, scales_of_halves.data(), some_zeros,
                                          order, out);
                    });
                    expect_equal([&](const auto& of, Scalar* out) {
                        of.decode_integers(rows, reinterpret_cast<const std::int8_t*>(bytes.data()), scales.data(),
                                           some_zeros, order, out);
                    });
                }
                expect_equal([&](const auto& of, Scalar* out) {
                    of.decode_e4m3(rows, bytes.data(), scales.data(), order, out);
                });
            }
        }
    });
}

/// Pairs are those of packed right operands.
TEST(ElementwiseBf16, PairsOfWeightsAreRightOperands) {
    std::array<std::int8_t, 1024> codes;
    std::array<float, 32> scales;
    scales.fill(1);
    std::mt19937 random(3);
    std::ranges::generate(codes, [&] { return static_cast<std::int8_t>(random()); });
    std::array<bf16, 1024> rows;
    std::array<bf16, 1024> pairs;
    const ElementwiseKernels<bf16>& portable = *elementwise_kernels<bf16>().front().kernels;
    portable.decode_integers(32, codes.data(), scales.data(), nullptr, WeightOrder::rows, rows.data());
    portable.decode_integers(32, codes.data(), scales.data(), nullptr, WeightOrder::pairs, pairs.data());
    for (const GemmKernel<bf16>& kernel : gemm_kernels<bf16>()) {
        if (kernel.micro_kernel->right_is_pairs && runs(Isa::avx512)) {
            std::array<bf16, 1024> packed;
            ASSERT_EQ(kernel.micro_kernel->right_bytes, sizeof(packed));
            kernel.micro_kernel->pack_right(packed.data(), {reinterpret_cast<const std::uint16_t*>(rows.data()),
                                                            kernel_block, false, 32, 32, 1024});
            EXPECT_EQ(std::memcmp(packed.data(), pairs.data(), sizeof(packed)), 0) << kernel.name;
        }
    }
}

TEST_P(Elementwise, Quantise) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        constexpr index_t step = 37;  // from one block of 32 elements to the next
        const index_t stored = n == 0 ? 0 : (n - 1) / 32 * step + (n - 1) % 32 + 1;
        const auto factors = values<Sum>(n, 2);
        for (const bool extremes : {false, true}) {
            const auto in = values<Scalar>(stored, 1, extremes);
            for (const Sum* some_factors : {factors.data(), static_cast<Sum*>(nullptr)}) {
                GuardedArray<std::int8_t> codes(n);
                GuardedArray<std::int8_t> expected(n);
                const Sum scale = kernels.quantise(n, in.data(), step, some_factors, codes.data());
                const Sum expected_scale = portable.quantise(n, in.data(), step, some_factors, expected.data());
                EXPECT_TRUE(scale == expected_scale || (std::isnan(scale) && std::isnan(expected_scale)));
                EXPECT_TRUE(std::equal(codes.data(), codes.data() + n, expected.data()));
                for (index_t i = 0; i < n && std::isfinite(scale); ++i) {
                    const Sum plain = core::widen(in[i / 32 * step + i % 32]);
                    const Sum x = some_factors == nullptr ? plain : plain * some_factors[i];
                    ASSERT_LE(std::abs(x - static_cast<Sum>(codes[i]) * scale), Sum(0.501) * scale + Sum(1e-30))
                        << "element " << i;
                }
            }
        }
    });
}

TEST(Quantise, RowsThatAreNotFiniteHaveNoFiniteScale) {
    for (const ElementwiseImplementation<bf16>& implementation : elementwise_kernels<bf16>()) {
        if (!runs(implementation.isa)) {
            continue;
        }
        for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN()}) {
            std::array<bf16, 70> in;
            in.fill(bf16(3.0F));
            in[41] = bf16(bad);
            std::array<std::int8_t, 70> codes;
            EXPECT_FALSE(std::isfinite(implementation.kernels->quantise(70, in.data(), 32, nullptr, codes.data())));
            EXPECT_TRUE(std::ranges::all_of(codes, [](std::int8_t code) { return code == 0; }));
        }
    }
}

TEST_P(Elementwise, ScaleIntegers) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        constexpr index_t rows = 3;
        std::mt19937 random(5);
        GuardedArray<std::int32_t> in(rows * n);
        for (index_t i = 0; i < rows * n; ++i) {
            in[i] = static_cast<std::int32_t>(random()) / 16;
        }
        const auto of_rows = values<Sum>(rows, 2);
        const auto of_cols = values<Sum>(n, 3);
        for (const bool accumulate : {false, true}) {
            for (const bool by_rows : {false, true}) {
                for (const bool by_cols : {false, true}) {
                    const auto scale = [&](const auto& of, const GuardedArray<Sum>& out) {
                        of.scale_integers(rows, n, in.data(), n, by_rows ? of_rows.data() : nullptr,
                                          by_cols ? of_cols.data() : nullptr, accumulate, out.data(), n);
                    };
                    const auto out = values<Sum>(rows * n, 4);
                    const auto expected = values<Sum>(rows * n, 4);
                    scale(kernels, out);
                    scale(portable, expected);
                    expect_same(out, expected);
                }
            }
        }
    });
}

TEST_P(Elementwise, AdamW) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto& portable, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const AdamWFactors<Sum> factors = {.beta1 = Sum(0.9),
                                           .beta2 = Sum(0.99),
                                           .clip = Sum(0.4),
                                           .step_size = Sum(0.01),
                                           .correction = Sum(1.2),
                                           .epsilon = Sum(1e-8),
                                           .decay = Sum(0.999)};
        struct State {
            explicit State(index_t size)
                : first(test::values<Sum>(size, 1)),
                  second(test::values<Sum>(size, 2)),
                  updated(test::values<Sum>(size, 3)) {
                std::for_each_n(second.data(), size, [](Sum& value) { value = std::abs(value); });
            }
            GuardedArray<Sum> first;
            GuardedArray<Sum> second;
            GuardedArray<Sum> updated;
        };
        const auto gradients = values<Sum>(n, 4);
        const State actual(n);
        const State expected(n);
        for (const auto& [table, state] : {std::pair{&kernels, &actual}, std::pair{&portable, &expected}}) {
            table->adamw(n, factors, gradients.data(), state->first.data(), state->second.data(), state->updated.data(),
                         state->updated.data());
        }
        expect_near(actual.first, expected.first, 4, 3);
        expect_near(actual.second, expected.second, 4, 3);
        expect_near(actual.updated, expected.updated, 4, 3);
    });
}

/// The rounding of an element depends on neither its place nor the length of the row.
TEST_P(Elementwise, ElementsDoNotDependOnTheRest) {
    for_all_sizes([]<class Scalar>(const auto& kernels, const auto&, index_t n, Scalar) {
        using Sum = accumulator_t<Scalar>;
        const auto gate = values<Sum>(n, 1);
        const auto up = values<Sum>(n, 2);
        GuardedArray<Scalar> whole(n);
        GuardedArray<Scalar> one_by_one(n);
        kernels.swiglu_forward(n, gate.data(), up.data(), up.data(), whole.data());
        for (index_t i = 0; i < n; ++i) {
            kernels.swiglu_forward(1, gate.data() + i, up.data() + i, up.data() + i, one_by_one.data() + i);
        }
        expect_same(one_by_one, whole);
    });
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise, testing::ValuesIn(all_implementations()), implementation_name);

}  // namespace
}  // namespace moesaic::kernels::test
