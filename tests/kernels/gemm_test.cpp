// Every implementation of the matrix product that this machine runs, against sums in a wider type.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "gemm_problem.hpp"
#include "support/amx_emulator.hpp"

namespace moesaic::kernels::test {
namespace {

using core::bf16;
using moesaic::test::AmxEmulator;
using AnyKernel = std::variant<GemmKernel<bf16>, GemmKernel<float>, GemmKernel<double>, GemmKernel<int8>>;

template <class... Scalars>
std::vector<AnyKernel> kernels_for() {
    std::vector<AnyKernel> kernels;
    const auto append = [&](const auto& list) { kernels.insert(kernels.end(), list.begin(), list.end()); };
    (append(gemm_kernels<Scalars>()), ...);
    return kernels;
}

template <class Scalar>
std::string type_name() {
    return std::is_same_v<Scalar, bf16>    ? "bf16"
           : std::is_same_v<Scalar, float> ? "float"
           : std::is_same_v<Scalar, int8>  ? "int8"
                                           : "double";
}

std::string kernel_name(const testing::TestParamInfo<AnyKernel>& info) {
    return std::visit(
        []<class Scalar>(const GemmKernel<Scalar>& kernel) {
            return type_name<Scalar>() + "_" + std::string(kernel.name);
        },
        info.param);
}

class GemmKernels : public testing::TestWithParam<AnyKernel> {
protected:
    void SetUp() override {
        const Isa isa = std::visit([](const auto& kernel) { return kernel.isa; }, GetParam());
        if (isa == Isa::amx && AmxEmulator::needed()) {
            emulator_.emplace();
            RecordProperty("amx", "emulated");
        } else if (!runs(isa)) {
            GTEST_SKIP() << "this machine does not run " << name(isa);
        }
    }
    void TearDown() override { EXPECT_FALSE(AmxEmulator::holds_tiles()) << "tiles must be released"; }

    /// Calls check(kernel) with the kernel's own type.
    template <class Check>
    void with_kernel(Check check) {
        std::visit(check, GetParam());
    }

private:
    std::optional<AmxEmulator> emulator_;
};

/// Kernels for elements that may be no finite numbers.
class FloatingGemmKernels : public GemmKernels {
protected:
    template <class Check>
    void with_kernel(Check check) {
        GemmKernels::with_kernel([&]<class Scalar>(const GemmKernel<Scalar>& kernel) {
            if constexpr (!std::is_integral_v<Scalar>) {
                check(kernel);
            }
        });
    }
};

template <class Scalar>
void check(const GemmKernel<Scalar>& kernel, const Shape& shape, std::uint32_t seed) {
    SCOPED_TRACE(testing::Message() << shape << ", seed " << seed);
    const Problem<Scalar> problem(shape, seed);
    kernel.run(problem.product());
    problem.expect_correct();
    problem.expect_gaps_untouched();
}

/// Mostly small and odd; now and then beyond the blocks of the packed operands.
Shape random_shape(std::mt19937& random) {
    const auto up_to = [&](index_t largest) { return std::uniform_int_distribution<index_t>(0, largest)(random); };
    const std::array<double, 4> alphas = {1, 1, -0.5, 1.7};
    const bool deep = up_to(9) == 0;
    const bool wide = !deep && up_to(9) == 0;
    Shape shape{};
    shape.m = up_to(wide ? 300 : up_to(2) == 0 ? 5 : 70);
    shape.n = up_to(wide ? 300 : up_to(2) == 0 ? 5 : 140);
    shape.k = up_to(deep ? 2500 : up_to(3) == 0 ? 3 : 150);
    shape.transpose_a = up_to(1) == 1;
    shape.transpose_b = up_to(1) == 1;
    shape.padding = up_to(1) * up_to(40);
    shape.alpha = alphas[static_cast<std::size_t>(up_to(3))];
    shape.accumulate = up_to(1) == 1;
    return shape;
}

TEST_P(GemmKernels, RandomShapes) {
    with_kernel([](const auto& kernel) {
        std::mt19937 random(20240607);
        for (std::uint32_t seed = 0; seed < 600 && !testing::Test::HasFatalFailure(); ++seed) {
            check(kernel, random_shape(random), seed);
        }
    });
}

TEST_P(GemmKernels, EdgesOfTilesWithAllTransposes) {
    with_kernel([](const auto& kernel) {
        std::uint32_t seed = 0;
        for (const index_t m : {1, 4, 5, 16, 31, 32, 33, 64}) {
            for (const index_t n : {1, 15, 16, 17, 32, 33, 48}) {
                for (const index_t k : {1, 2, 31, 32, 33, 512, 1025}) {
                    for (const int transposes : {0, 1, 2, 3}) {
                        const Shape shape{.m = m,
                                          .n = n,
                                          .k = k,
                                          .transpose_a = (transposes & 1) != 0,
                                          .transpose_b = (transposes & 2) != 0,
                                          .accumulate = seed % 2 == 1};
                        check(kernel, shape, ++seed);
                        if (testing::Test::HasFatalFailure()) {
                            return;
                        }
                    }
                }
            }
        }
    });
}

TEST_P(GemmKernels, ManyRowsAtFullDepth) {
    with_kernel([](const auto& kernel) {
        check(kernel, {.m = 1100, .n = 40, .k = 1024, .transpose_a = false, .transpose_b = true}, 1);
        check(kernel, {.m = 64, .n = 64, .k = 4099, .transpose_a = true, .transpose_b = false, .accumulate = true}, 2);
        check(kernel, {.m = 3, .n = 200, .k = 9001, .transpose_a = false, .transpose_b = true, .alpha = 0.5}, 3);
    });
}

TEST_P(GemmKernels, SeveralThreadsAtOnce) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        std::mt19937 random(20240608);
        std::vector<std::unique_ptr<Problem<Scalar>>> problems;
        for (std::uint32_t seed = 0; seed < 40; ++seed) {
            problems.push_back(std::make_unique<Problem<Scalar>>(random_shape(random), seed));
        }
        const std::size_t count = problems.size();
#pragma omp parallel for schedule(dynamic, 1) num_threads(4)
        for (std::size_t i = 0; i < count; ++i) {
            kernel.run(problems[i]->product());
        }
        for (const auto& problem : problems) {
            problem->expect_correct();
            problem->expect_gaps_untouched();
        }
    });
}

TEST_P(GemmKernels, NoDepthMeansZeros) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        for (const bool accumulate : {false, true}) {
            const Shape shape{.m = 7,
                              .n = 9,
                              .k = 0,
                              .transpose_a = false,
                              .transpose_b = true,
                              .padding = 3,
                              .accumulate = accumulate};
            check(kernel, shape, 5);
        }
    });
}

TEST_P(FloatingGemmKernels, NaNSpreadsOverItsRowOnly) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        for (const index_t m : {3, 50}) {
            for (const bool transpose : {false, true}) {
                const Problem<Scalar> problem(
                    {.m = m, .n = 45, .k = 70, .transpose_a = transpose, .transpose_b = transpose}, 7);
                problem.a(2, 69) = Scalar(std::numeric_limits<float>::quiet_NaN());
                problem.b(69, 1) = Scalar(0.0F);
                kernel.run(problem.product());
                for (index_t i = 0; i < m; ++i) {
                    for (index_t j = 0; j < 45; ++j) {
                        ASSERT_EQ(std::isnan(problem.c(i, j)), i == 2) << "element " << i << ", " << j;
                    }
                }
            }
        }
    });
}

TEST_P(FloatingGemmKernels, InfinitySpreadsOverItsColumnOnly) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        for (const index_t m : {3, 50}) {
            for (const bool transpose : {false, true}) {
                const Problem<Scalar> problem(
                    {.m = m, .n = 45, .k = 71, .transpose_a = transpose, .transpose_b = transpose}, 8);
                problem.b(70, 33) = Scalar(std::numeric_limits<float>::infinity());
                problem.a(0, 70) = Scalar(0.0F);
                problem.a(1, 70) = Scalar(-2.0F);
                problem.a(2, 70) = Scalar(0.5F);
                kernel.run(problem.product());
                EXPECT_TRUE(std::isnan(problem.c(0, 33)));
                EXPECT_EQ(problem.c(1, 33), -std::numeric_limits<accumulator_t<Scalar>>::infinity());
                EXPECT_EQ(problem.c(2, 33), std::numeric_limits<accumulator_t<Scalar>>::infinity());
                for (index_t i = 0; i < m; ++i) {
                    for (index_t j = 0; j < 45; ++j) {
                        ASSERT_EQ(std::isfinite(problem.c(i, j)), j != 33) << "element " << i << ", " << j;
                    }
                }
            }
        }
    });
}

/// Operands of a micro-kernel: plain blocks of small integers, whose products and sums are exact, and packed strips.
template <class Scalar>
class Strip {
public:
    using Element = stored_t<Scalar>;
    static constexpr index_t elements = kernel_block * kernel_block;

    Strip(const micro_kernel_t<Scalar>& kernel, index_t blocks, int seed)
        : blocks_(blocks), plain_(static_cast<std::size_t>(blocks * elements)) {
        for (Scalar& value : plain_) {
            value = Scalar(static_cast<accumulator_t<Scalar>>(seed++ % 7 - 3));
        }
        const auto packed_blocks = static_cast<std::size_t>((depth() + kernel.block_depth - 1) / kernel.block_depth);
        left_.resize(packed_blocks * kernel.left_bytes);
        right_.resize(packed_blocks * kernel.right_bytes);
        const auto* first = reinterpret_cast<const Element*>(plain_.data());
        kernel.pack_left(left_.data(), {first, kernel_block, true, kernel_block, depth(), elements});
        kernel.pack_right(right_.data(), {first, kernel_block, false, kernel_block, depth(), elements});
    }

    [[nodiscard]] index_t depth() const { return blocks_ * kernel_block; }
    [[nodiscard]] PlainBlocks plain() const { return {plain_.data(), elements * index_t{sizeof(Scalar)}, blocks_}; }
    [[nodiscard]] const void* left() const { return left_.data(); }
    [[nodiscard]] const std::vector<std::byte>& right() const { return right_; }
    /// Element (row, k) as left operand, (k, col) as right one.
    [[nodiscard]] accumulator_t<Scalar> as_left(index_t row, index_t k) const {
        return at(k / kernel_block, row, k % kernel_block);
    }
    [[nodiscard]] accumulator_t<Scalar> as_right(index_t k, index_t col) const {
        return at(k / kernel_block, k % kernel_block, col);
    }

private:
    [[nodiscard]] accumulator_t<Scalar> at(index_t block, index_t row, index_t col) const {
        return core::widen(plain_[static_cast<std::size_t>(block * elements + row * kernel_block + col)]);
    }

    index_t blocks_;
    std::vector<Scalar> plain_;
    std::vector<std::byte> left_;
    std::vector<std::byte> right_;
};

TEST_P(GemmKernels, StripsOfTwoTermsAddUp) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        const micro_kernel_t<Scalar>& micro = *kernel.micro_kernel;
        const Strip<Scalar> left(micro, 3, 1);
        const Strip<Scalar> right(micro, 3, 2);
        const Strip<Scalar> more_left(micro, 2, 3);
        const Strip<Scalar> more_right(micro, 2, 4);
        for (const bool accumulate : {false, true}) {
            std::vector<accumulator_t<Scalar>> c(static_cast<std::size_t>(kernel_block * kernel_block), 5);
            {
                const ProcessorScope scope(micro.state);
                micro.multiply({kernel_block,
                                kernel_block,
                                {left.left(), right.right().data(), left.depth()},
                                c.data(),
                                kernel_block,
                                accumulate,
                                {more_left.left(), more_right.right().data(), more_left.depth()}});
            }
            for (index_t row = 0; row < kernel_block; ++row) {
                for (index_t col = 0; col < kernel_block; ++col) {
                    accumulator_t<Scalar> expected = accumulate ? 5 : 0;
                    for (index_t k = 0; k < left.depth(); ++k) {
                        expected += left.as_left(row, k) * right.as_right(k, col);
                    }
                    for (index_t k = 0; k < more_left.depth(); ++k) {
                        expected += more_left.as_left(row, k) * more_right.as_right(k, col);
                    }
                    ASSERT_EQ(c[static_cast<std::size_t>(row * kernel_block + col)], expected) << row << ", " << col;
                }
            }
        }
    });
}

/// By products that are shorter and longer than what there is to pack.
TEST_P(GemmKernels, WorkOnTheSideIsDoneAsFarAsIsSaid) {
    with_kernel([]<class Scalar>(const GemmKernel<Scalar>& kernel) {
        const micro_kernel_t<Scalar>& micro = *kernel.micro_kernel;
        constexpr index_t products = 3;
        const Strip<Scalar> operand(micro, 3, 1);
        for (const index_t blocks : {2, 3, 5}) {
            const Strip<Scalar> next(micro, blocks, 2);
            std::vector<std::byte> packed(next.right().size());
            std::vector<accumulator_t<Scalar>> c(static_cast<std::size_t>(kernel_block * kernel_block));
            SideWork side = {};
            side.fetch = next.plain();
            side.pack = next.plain();
            side.strip = packed.data();
            {
                const ProcessorScope scope(micro.state);
                for (index_t i = 0; i < products; ++i) {
                    side.first_row = kernel_block * i / products;
                    side.last_row = kernel_block * (i + 1) / products;
                    side.first_line = side.first_row;
                    side.last_line = side.last_row;
                    micro.multiply({kernel_block,
                                    kernel_block,
                                    {operand.left(), operand.right().data(), operand.depth()},
                                    c.data(),
                                    kernel_block,
                                    false,
                                    {},
                                    &side});
                }
            }
            ASSERT_LE(side.packed, blocks);
            const auto done = static_cast<std::size_t>(side.packed) * micro.right_bytes;
            EXPECT_EQ(std::memcmp(packed.data(), next.right().data(), done), 0) << blocks << " blocks";
            EXPECT_TRUE(std::all_of(packed.begin() + static_cast<std::ptrdiff_t>(done), packed.end(),
                                    [](std::byte byte) { return byte == std::byte{0}; }));
        }
    });
}

INSTANTIATE_TEST_SUITE_P(All, GemmKernels, testing::ValuesIn(kernels_for<bf16, float, double, int8>()), kernel_name);
INSTANTIATE_TEST_SUITE_P(All, FloatingGemmKernels, testing::ValuesIn(kernels_for<bf16, float, double>()), kernel_name);

}  // namespace
}  // namespace moesaic::kernels::test
