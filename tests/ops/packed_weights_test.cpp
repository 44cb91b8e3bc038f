// Frozen weights in all formats: what they take, what sources may fill, what kernels get.
#include "ops/weights/packed_weights.hpp"
#include "core/error.hpp"
#include "core/small_floats.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

namespace moesaic::ops {
namespace {

using core::bf16;
using core::Matrix;
using kernels::KernelSet;
using test::random_matrix;

TEST(WeightFormats, AreListedInTheirOrderAndOneIsTheTypeOfActivations) {
    for (std::size_t i = 0; i < weight_formats.size(); ++i) {
        EXPECT_EQ(static_cast<std::size_t>(weight_formats[i].format), i);
        EXPECT_EQ(weight_formats[i].block_bytes % line_bytes, 0);
    }
    EXPECT_EQ(format_of<bf16>, WeightFormat::bf16);
    EXPECT_EQ(format_of<float>, WeightFormat::fp32);
    EXPECT_EQ(format_of<double>, WeightFormat::fp64);
}

TEST(PackedWeights, TakeWhatAPlanSays) {
    for (const FormatFacts& facts : weight_formats) {
        for (const auto& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {70, 45}, {64, 256}, {33, 512}}) {
            const PackedWeights weights(facts.format, rows, cols, 3);
            EXPECT_EQ(weights.bytes(), static_cast<std::size_t>(3 * PackedWeights::bytes_of(facts.format, rows, cols)))
                << facts.name << " " << rows << " x " << cols;
        }
    }
    EXPECT_EQ(PackedWeights::bytes_of(WeightFormat::bf16, 64, 96), 2 * 64 * 96);
    EXPECT_EQ(PackedWeights::bytes_of(WeightFormat::bf16, 64, 256), 2 * (64 * 256 + 2 * 256));  // a gap per block row
    EXPECT_EQ(PackedWeights::bytes_of(WeightFormat::fp32, 40, 33), 4 * 64 * 64);
}

/// As if they had all been stored at once, in memory that is kept as long as there are weights in it.
TEST(PackedWeights, AreFilledByPartsInMemoryOfOthers) {
    constexpr index_t rows = 70;
    constexpr index_t cols = 45;
    const KernelSet kernels("portable");
    const Matrix<float> plain = random_matrix<float>(rows, cols, 1);
    PackedWeights own(WeightFormat::fp32, rows, cols);
    own.matrix().assign_rows<float>(0, plain);
    PackedWeights placed = PackedWeights::without_memory(WeightFormat::fp32, rows, cols);
    std::weak_ptr<std::byte> kept;
    {
        const std::shared_ptr<std::byte> memory(static_cast<std::byte*>(core::allocate_lines(placed.bytes())),
                                                std::free);
        kept = memory;
        placed.use(memory);
        EXPECT_EQ(placed.matrix().blocks().data(), memory.get());
    }
    EXPECT_FALSE(kept.expired());
    for (const auto& [first, count] : {std::pair<index_t, index_t>{32, 32}, {64, 6}, {0, 32}}) {
        const PackedMatrix part = placed.matrix().rows(first, count);
        EXPECT_EQ(part.rows(), count);
        part.assign_rows<float>(0, plain.view().rows(first, count));
    }
    std::vector<float> expected(cols);
    std::vector<float> found(cols);
    for (index_t row = 0; row < rows; ++row) {
        own.widen_row(kernels, row, expected.data());
        placed.widen_row(kernels, row, found.data());
        EXPECT_EQ(found, expected) << row;
    }
    placed = PackedWeights();
    EXPECT_TRUE(kept.expired());
}

/// By how much an element may differ from what was stored, over the largest of its row in a block.
double rounding_of(WeightFormat format) {
    switch (format) {
        case WeightFormat::fp8:
            return 0x1p-4;
        case WeightFormat::int8:
        case WeightFormat::int8_rows:
            return 0.5 / 127;
        case WeightFormat::int4:
            return 0.5 / 7 + 0x1p-8;  // the scale is a BF16
        case WeightFormat::uint4:
            return 2.0 / 15;  // a step, where rounding the zero point moves an end beyond the codes
        case WeightFormat::mxfp4:
            return 0.25;  // 8 becomes 6, 5 becomes 4
        case WeightFormat::nvfp4:
            return 1.0 / 6 + 0x1p-4;  // 5 becomes 4, and the scale is an E4M3
        default:
            return 0;
    }
}

template <class Scalar>
class PackedWeightsOf : public testing::Test {};
using Types = testing::Types<bf16, float, double>;
TYPED_TEST_SUITE(PackedWeightsOf, Types);

/// Elements of the second of three matrices, by strips of rows and of columns, with zeros beyond the edges.
TYPED_TEST(PackedWeightsOf, GiveKernelsTheElementsOfTheirMatrix) {
    using Scalar = TypeParam;
    constexpr index_t rows = 70;
    constexpr index_t cols = 45;
    const KernelSet kernels("portable");
    for (const FormatFacts& facts : weight_formats) {
        if (access_to<Scalar>(facts) == Access::none || access_to<Scalar>(facts) == Access::integers) {
            continue;
        }
        SCOPED_TRACE(facts.name);
        const Matrix<bf16> exact = random_matrix<bf16>(rows, cols, 1);
        Matrix<Scalar> plain(rows, cols);
        Matrix<Scalar> other(rows, cols);
        std::ranges::transform(exact.flat(), plain.data(),
                               [](bf16 value) { return static_cast<Scalar>(core::widen(value)); });
        other.fill(static_cast<Scalar>(3.0F));
        PackedWeights weights(facts.format, rows, cols, 3);
        for (const index_t matrix : {0, 2, 1}) {
            weights.matrix(matrix).template assign_rows<Scalar>(
                0, matrix == 1 ? plain.view().rows(0, 64) : other.view().rows(0, 64));
            weights.matrix(matrix).template assign_rows<Scalar>(
                64, matrix == 1 ? plain.view().rows(64, 6) : other.view().rows(64, 6));
        }
        core::Buffer<Scalar> scratch;
        const auto expect_block = [&](const Scalar* block, index_t block_row, index_t block_col) {
            for (index_t i = 0; i < block_elements; ++i) {
                const index_t row = block_row * kernel_block + i / kernel_block;
                const index_t col = block_col * kernel_block + i % kernel_block;
                const Scalar expected = row < rows && col < cols ? plain.view()(row, col) : static_cast<Scalar>(0.0F);
                if (const double rounding = rounding_of(facts.format); rounding > 0) {
                    constexpr double largest = 4;  // of these random numbers
                    ASSERT_NEAR(core::widen(block[i]), core::widen(expected), rounding * largest) << row << ", " << col;
                } else {
                    ASSERT_EQ(core::widen(block[i]), core::widen(expected)) << row << ", " << col;
                }
            }
        };
        for (index_t strip = 0; strip < blocks_of(rows); ++strip) {
            const StoredRun run = weights.row_run(1, strip, 1, 1);
            const BlockRun<Scalar> panel = panel_of<Scalar>(kernels, run, scratch);
            ASSERT_EQ(panel.blocks, 1);
            expect_block(panel.block(0), strip, 1);
            EXPECT_EQ(static_cast<const void*>(panel.first) == run.first, access_to<Scalar>(facts) == Access::in_place);
        }
        for (index_t strip = 0; strip < blocks_of(cols); ++strip) {
            const BlockRun<Scalar> panel =
                panel_of<Scalar>(kernels, weights.column_run(1, strip, 0, blocks_of(rows)), scratch);
            for (index_t b = 0; b < blocks_of(rows); ++b) {
                expect_block(panel.block(b), b, strip);
            }
        }
    }
}

/// Rows as pairs, block by block, of a panel that is longer than the one that is asked for, or shorter.
TEST(PackedWeights, AreUnpackedToPairs) {
    const KernelSet kernels;
    const Matrix<bf16> plain = random_matrix<bf16>(96, 64, 1);
    for (const FormatFacts& facts : weight_formats) {
        if (access_to<bf16>(facts) != Access::unpacked) {
            continue;
        }
        SCOPED_TRACE(facts.name);
        PackedWeights weights(facts.format, 96, 64);
        weights.matrix().assign_rows<bf16>(0, plain);
        const StoredRun run = weights.column_run(0, 1, 0, 3);
        core::Buffer<bf16> scratch;
        const BlockRun<bf16> rows = panel_of<bf16>(KernelSet("portable"), run, scratch);
        for (const index_t asked : {0, 2, 3}) {
            std::vector<bf16> pairs(3 * block_elements);
            unpack<bf16>(kernels, run, kernels::WeightOrder::pairs, weights.column_run(0, 0, 0, asked), pairs.data());
            for (index_t i = 0; i < 3 * block_elements; ++i) {
                const index_t row = i % block_elements / kernel_block;
                const index_t col = i % kernel_block;
                const index_t place = (col / 16 * 16 + row / 2) * kernel_block + col % 16 * 2 + row % 2;
                ASSERT_EQ(pairs[static_cast<std::size_t>(i / block_elements * block_elements + place)].bits(),
                          rows.first[i].bits())
                    << row << ", " << col;
            }
        }
    }
}

TEST(PackedWeights, RowsHaveOneScaleInInt8ByRows) {
    Matrix<float> plain = random_matrix<float>(70, 100, 1);
    for (index_t row = 0; row < 70; ++row) {
        plain.view()(row, row) = row == 40 ? 5.0F : -7.0F;  // the largest of the row
    }
    PackedWeights weights(WeightFormat::int8_rows, 70, 100, 2);
    ASSERT_TRUE(weights.matrix(1).assign_rows<float>(0, plain));
    for (index_t row = 0; row < 96; ++row) {
        const float expected = row == 40 ? 5.0F / 127 : row < 70 ? 7.0F / 127 : 0.0F;
        EXPECT_EQ(weights.scales_of_rows(1, row / 32)[row % 32], expected) << row;
    }
    std::array<float, 100> widened;
    PackedWeights first(WeightFormat::int8_rows, 70, 100);
    ASSERT_TRUE(first.matrix().assign_rows<float>(0, plain));
    first.widen_row(KernelSet("portable"), 40, widened.data());
    for (index_t col = 0; col < 100; ++col) {
        EXPECT_NEAR(widened[static_cast<std::size_t>(col)], plain.view()(40, col), 0.501 * 5 / 127) << col;
    }
    plain.view()(3, 99) = std::numeric_limits<float>::infinity();
    EXPECT_FALSE(weights.matrix().assign_rows<float>(0, plain));
}

TYPED_TEST(PackedWeightsOf, RefuseActivationsThatWouldLoseTheirDigits) {
    using Scalar = TypeParam;
    for (const FormatFacts& facts : weight_formats) {
        if (access_to<Scalar>(facts) == Access::none) {
            PackedWeights weights(facts.format, 3, 2);
            const Matrix<Scalar> plain = random_matrix<Scalar>(3, 2, 1);
            EXPECT_THROW(weights.matrix().template assign_rows<Scalar>(0, plain), core::Error) << facts.name;
        }
    }
}

/// What a format can express comes back as it was, zeros of whole rows too.
TYPED_TEST(PackedWeightsOf, KeepTheNumbersOfTheirFormat) {
    using Scalar = TypeParam;
    const auto numbers_of = [](WeightFormat format) {
        std::vector<float> numbers;
        for (int code = 0; code < 256; ++code) {
            const float e4m3 = core::widen_e4m3(static_cast<std::uint8_t>(code));
            switch (format) {
                case WeightFormat::fp8:
                    numbers.push_back(std::isnan(e4m3) ? 448.0F : e4m3);
                    break;
                case WeightFormat::int8:
                case WeightFormat::int8_rows:
                    numbers.push_back(static_cast<float>(code == 0 ? 127 : code - 128));
                    break;
                case WeightFormat::int4:
                    numbers.push_back(static_cast<float>(code % 16 == 0 ? 7 : code % 16 - 8));
                    break;
                default:
                    numbers.push_back(core::values_of_e2m1[static_cast<std::size_t>(code % 16)]);
            }
        }
        return numbers;
    };
    const KernelSet kernels("portable");
    for (const WeightFormat format : {WeightFormat::fp8, WeightFormat::int8, WeightFormat::int4, WeightFormat::mxfp4}) {
        SCOPED_TRACE(facts_of(format).name);
        const std::vector<float> numbers = numbers_of(format);
        const float largest = *std::ranges::max_element(numbers);
        constexpr index_t rows = 37;
        constexpr index_t cols = 64;
        Matrix<Scalar> plain(rows, cols);
        for (index_t row = 0; row < rows; ++row) {
            for (index_t col = 0; col < cols; ++col) {
                // Each row of a block has the largest, which makes the scale a power of two.
                const float number =
                    col % kernel_block == 7 ? largest : numbers[static_cast<std::size_t>((row * 31 + col * 5) % 256)];
                plain.view()(row, col) =
                    static_cast<Scalar>(row == 3 ? 0.0F : std::ldexp(number, static_cast<int>(row) - 20));
            }
        }
        PackedWeights weights(format, rows, cols);
        EXPECT_TRUE(weights.matrix().template assign_rows<Scalar>(0, plain));
        core::Buffer<Scalar> scratch;
        std::vector<accumulator_t<Scalar>> widened(cols);
        for (index_t row = 0; row < rows; ++row) {
            const auto panel = panel_of<Scalar>(kernels, weights.row_run(0, row / kernel_block, 0, 2), scratch);
            weights.widen_row(kernels, row, widened.data());
            for (index_t col = 0; col < cols; ++col) {
                const Scalar found =
                    panel.block(col / kernel_block)[row % kernel_block * kernel_block + col % kernel_block];
                ASSERT_EQ(core::widen(found), core::widen(plain.view()(row, col))) << row << ", " << col;
                ASSERT_EQ(widened[static_cast<std::size_t>(col)], core::widen(plain.view()(row, col)));
            }
        }
        plain.view()(5, 5) = static_cast<Scalar>(std::numeric_limits<float>::quiet_NaN());
        EXPECT_FALSE(weights.matrix().template assign_rows<Scalar>(0, plain));
        plain.view()(5, 5) = static_cast<Scalar>(std::numeric_limits<float>::infinity());
        EXPECT_FALSE(weights.matrix().template assign_rows<Scalar>(0, plain));
    }
}

TEST(PackedWeights, RoundToTheirFormat) {
    const Matrix<float> plain = random_matrix<float>(40, 33, 1);
    PackedWeights weights(WeightFormat::bf16, 40, 33);
    weights.matrix().assign_rows<float>(0, plain);
    core::Buffer<bf16> scratch;
    const bf16* block = panel_of<bf16>(KernelSet("portable"), weights.row_run(0, 0, 0, 2), scratch).first;
    EXPECT_EQ(block[3 * kernel_block + 5].bits(), bf16(plain.view()(3, 5)).bits());
    EXPECT_NE(core::widen(block[3 * kernel_block + 5]), plain.view()(3, 5));
}

TEST(PackedWeights, WidenRows) {
    const Matrix<bf16> plain = random_matrix<bf16>(70, 45, 1);
    PackedWeights weight(format_of<bf16>, 70, 45);
    weight.matrix().assign_rows<bf16>(0, plain);
    std::vector<float> row(45);
    for (const index_t i : {0, 31, 32, 69}) {
        weight.widen_row(KernelSet("portable"), i, row.data());
        for (index_t j = 0; j < 45; ++j) {
            EXPECT_EQ(row[static_cast<std::size_t>(j)], core::widen(plain.view()(i, j)));
        }
    }
}

}  // namespace
}  // namespace moesaic::ops
