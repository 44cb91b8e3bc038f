// Products with frozen matrices at every instruction set level, against sums in double precision.
#include "ops/frozen_product.hpp"
#include "support/kernel_levels.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace moesaic::ops {
namespace {

using core::bf16;
using kernels::KernelSet;
using test::random_matrix;

struct Shape {
    index_t m;
    index_t n;
    index_t k;
};

/// Edges of blocks, chunks of 256 rows and segments of 2048 along the contraction, in both directions.
constexpr std::array shapes = {Shape{0, 5, 7},     Shape{1, 1, 1},       Shape{3, 40, 33},
                               Shape{16, 64, 96},  Shape{31, 31, 65},    Shape{33, 96, 200},
                               Shape{257, 70, 45}, Shape{300, 33, 2100}, Shape{40, 4160, 50}};

/// Largest error of y relative to the norm of its rows, for y = x W^T or x W, added to `before`.
template <class Scalar>
double error_of(const FrozenProduct<Scalar>& product, const Matrix<Scalar>& weight,
                MatrixView<const accumulator_t<Scalar>> before) {
    const bool forward = product.direction == Direction::forward;
    double worst = 0;
    for (index_t row = 0; row < product.y.rows(); ++row) {
        double norm = 1e-30;
        double error = 0;
        for (index_t col = 0; col < product.y.cols(); ++col) {
            double sum = product.accumulate ? before(row, col) : 0.0;
            for (index_t k = 0; k < product.x.cols(); ++k) {
                const Scalar w = forward ? weight.view()(col, k) : weight.view()(k, col);
                const double low = product.low.empty() ? 0 : core::widen(product.low(row, k));
                sum +=
                    (static_cast<double>(core::widen(product.x(row, k))) + low) * static_cast<double>(core::widen(w));
            }
            norm += sum * sum;
            error += std::pow(product.y(row, col) - sum, 2);
        }
        worst = std::max(worst, std::sqrt(error / norm));
    }
    return worst;
}

template <class Scalar>
void expect_exact_products(const KernelSet& kernels, double bound) {
    using Sum = accumulator_t<Scalar>;
    FrozenScratch<Scalar> scratch;
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(testing::Message() << "M " << shape.m << ", N " << shape.n << ", K " << shape.k);
        const Matrix<Scalar> plain = random_matrix<Scalar>(shape.n, shape.k, 1);
        PackedWeights weight(format_of<Scalar>, shape.n, shape.k);
        weight.matrix().assign_rows<Scalar>(0, plain);
        const Matrix<Scalar> x = random_matrix<Scalar>(shape.m, shape.k, 2);
        const Matrix<Scalar> grad = random_matrix<Scalar>(shape.m, shape.n, 3);
        const Matrix<Scalar> low = random_matrix<Scalar>(shape.m, shape.k, 6);
        for (const bool accumulate : {false, true}) {
            Matrix<Sum> y = random_matrix<Sum>(shape.m, shape.n, 4);
            Matrix<Sum> grad_x = random_matrix<Sum>(shape.m, shape.k, 5);
            Matrix<Sum> of_both = random_matrix<Sum>(shape.m, shape.n, 4);
            const Matrix<Sum> y_before = random_matrix<Sum>(shape.m, shape.n, 4);
            const Matrix<Sum> grad_x_before = random_matrix<Sum>(shape.m, shape.k, 5);
            const FrozenProduct<Scalar> batch[] = {{weight, Direction::forward, x, y, accumulate, {}},
                                                   {weight, Direction::backward, grad, grad_x, accumulate, {}},
                                                   {weight, Direction::forward, x, of_both, accumulate, low}};
            multiply<Scalar>(kernels, batch, scratch);
            EXPECT_LT(error_of(batch[0], plain, y_before), bound);
            EXPECT_LT(error_of(batch[2], plain, y_before), bound);
            EXPECT_LT(error_of(batch[1], plain, grad_x_before), bound);
        }
    }
}

class FrozenProductLevels : public test::KernelLevels {};

TEST_P(FrozenProductLevels, MultiplyInBothDirections) {
    expect_exact_products<bf16>(KernelSet(GetParam()), 1e-5);
}

TEST_P(FrozenProductLevels, GiveTheSameBitsForAnyThreadCountAndInAnyCompany) {
    const KernelSet kernels(GetParam());
    const Matrix<bf16> x = random_matrix<bf16>(300, 100, 1);
    PackedWeights first(format_of<bf16>, 260, 100);
    PackedWeights second(format_of<bf16>, 70, 100);
    first.matrix().assign_rows<bf16>(0, random_matrix<bf16>(260, 100, 2));
    second.matrix().assign_rows<bf16>(0, random_matrix<bf16>(70, 100, 3));
    FrozenScratch<bf16> scratch;
    Matrix<float> together[2] = {{300, 260}, {300, 70}};
    Matrix<float> alone(300, 70);
    omp_set_num_threads(4);
    const std::vector<FrozenProduct<bf16>> batch = {{first, Direction::forward, x, together[0], false, {}},
                                                    {second, Direction::forward, x, together[1], false, {}}};
    multiply<bf16>(kernels, batch, scratch);
    omp_set_num_threads(1);
    const FrozenProduct<bf16> one = {second, Direction::forward, x, alone, false, {}};
    multiply<bf16>(kernels, {&one, 1}, scratch);
    EXPECT_TRUE(std::ranges::equal(alone.flat(), together[1].flat()));
}

TEST_P(FrozenProductLevels, GiveTheSameBitsBlockByBlock) {
    const KernelSet kernels(GetParam());
    FrozenScratch<bf16> scratch;
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(testing::Message() << "M " << shape.m << ", N " << shape.n << ", K " << shape.k);
        PackedWeights weight(format_of<bf16>, shape.n, shape.k);
        weight.matrix().assign_rows<bf16>(0, random_matrix<bf16>(shape.n, shape.k, 1));
        const Matrix<bf16> x = random_matrix<bf16>(shape.m, shape.k, 2);
        const Matrix<bf16> grad = random_matrix<bf16>(shape.m, shape.n, 3);
        Matrix<float> y(shape.m, shape.n);
        Matrix<float> grad_x(shape.m, shape.k);
        const FrozenProduct<bf16> whole[] = {{weight, Direction::forward, x, y, false, {}},
                                             {weight, Direction::backward, grad, grad_x, false, {}}};
        multiply<bf16>(kernels, whole, scratch);

        Matrix<float> taken(shape.m, shape.n);
        taken.fill(0);
        const auto take = [&](index_t feature, index_t token, MatrixView<float> block) {
            for (index_t f = 0; f < block.rows(); ++f) {
                for (index_t t = 0; t < block.cols(); ++t) {
                    taken.view()(token + t, feature + f) += block(f, t);  // each of them once
                }
            }
        };
        PackedRows<bf16> rows;
        rows.resize(kernels, shape.m, shape.n);
        for (index_t token = 0; token < shape.m; token += kernel_block) {
            for (index_t column = 0; column < shape.n; column += kernel_block) {
                Matrix<bf16> block(std::min(kernel_block, shape.n - column), std::min(kernel_block, shape.m - token));
                for (index_t c = 0; c < block.rows(); ++c) {
                    for (index_t t = 0; t < block.cols(); ++t) {
                        block.view()(c, t) = grad.view()(token + t, column + c);
                    }
                }
                rows.store(kernels, column, token, block);
            }
        }
        Matrix<float> of_packed(shape.m, shape.k);
        Matrix<float> first_columns(shape.m, (shape.n + 1) / 2);
        const FrozenProduct<bf16> by_blocks[] = {{weight, Direction::forward, x, {}, false, {}, take},
                                                 {weight, Direction::backward, {}, of_packed, false, {}, {}, &rows},
                                                 {weight, Direction::forward, x, first_columns, false, {}}};
        multiply<bf16>(kernels, by_blocks, scratch);
        EXPECT_TRUE(std::ranges::equal(taken.flat(), y.flat()));
        EXPECT_TRUE(std::ranges::equal(of_packed.flat(), grad_x.flat()));
        for (index_t row = 0; row < shape.m; ++row) {
            EXPECT_TRUE(
                std::ranges::equal(first_columns.view().row(row), y.view().columns(0, first_columns.cols()).row(row)))
                << row;
        }
    }
}

/// BF16 is exact in FP32: what is unpacked on the way to the kernels gives the bits of weights that were widened
/// before.
TEST_P(FrozenProductLevels, OfFp32WithWeightsInBf16AreThoseWithTheSameWeightsInFp32) {
    const KernelSet kernels(GetParam());
    FrozenScratch<float> scratch;
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(testing::Message() << "M " << shape.m << ", N " << shape.n << ", K " << shape.k);
        const Matrix<bf16> plain = random_matrix<bf16>(shape.n, shape.k, 1);
        Matrix<float> widened(shape.n, shape.k);
        std::ranges::transform(plain.flat(), widened.data(), [](bf16 value) { return core::widen(value); });
        const Matrix<float> x = random_matrix<float>(shape.m, shape.k, 2);
        const Matrix<float> grad = random_matrix<float>(shape.m, shape.n, 3);
        std::vector<std::pair<Matrix<float>, Matrix<float>>> results;
        for (const WeightFormat format : {WeightFormat::fp32, WeightFormat::bf16}) {
            PackedWeights weight(format, shape.n, shape.k);
            weight.matrix().assign_rows<float>(0, widened);
            auto& [y, grad_x] = results.emplace_back(Matrix<float>(shape.m, shape.n), Matrix<float>(shape.m, shape.k));
            const FrozenProduct<float> batch[] = {{weight, Direction::forward, x, y, false, {}},
                                                  {weight, Direction::backward, grad, grad_x, false, {}}};
            multiply<float>(kernels, batch, scratch);
        }
        EXPECT_TRUE(std::ranges::equal(results[1].first.flat(), results[0].first.flat()));
        EXPECT_TRUE(std::ranges::equal(results[1].second.flat(), results[0].second.flat()));
    }
}

INSTANTIATE_TEST_SUITE_P(All, FrozenProductLevels, testing::ValuesIn(kernels::gemm_kernels<bf16>()), test::kernel_name);

TEST(FrozenProduct, MultipliesInFp32AndDouble) {
    expect_exact_products<float>(KernelSet("portable"), 1e-5);
    expect_exact_products<double>(KernelSet("portable"), 1e-13);
}

}  // namespace
}  // namespace moesaic::ops
