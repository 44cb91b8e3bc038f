// Head and cross-entropy at every instruction set level, against softmax in double precision.
#include "ops/loss.hpp"
#include "support/kernel_levels.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace moesaic::ops {
namespace {

using core::bf16;
using kernels::KernelSet;
using test::random_matrix;

constexpr double scale = 0.3;
/// Of references: logits behind them are seen by the large product alone.
constexpr index_t first_columns = 256;

template <class Scalar>
struct Problem {
    using Sum = accumulator_t<Scalar>;

    /// Every second row is a target.
    Problem(index_t rows, index_t vocabulary, index_t width)
        : hidden(random_matrix<Scalar>(2 * rows, width, 1)), head(random_matrix<Scalar>(vocabulary, width, 2)) {
        for (index_t i = 0; i < rows; ++i) {
            targets.push_back({2 * i, 0, static_cast<std::int32_t>((i * 37 + vocabulary - 1) % vocabulary)});
        }
    }
    [[nodiscard]] std::vector<double> logits(const Target& target) const {
        std::vector<double> of_row;
        for (index_t token = 0; token < head.rows(); ++token) {
            of_row.push_back(0);
            for (index_t k = 0; k < head.cols(); ++k) {
                of_row.back() += static_cast<double>(core::widen(hidden.view()(target.row, k))) *
                                 static_cast<double>(core::widen(head.view()(token, k)));
            }
        }
        return of_row;
    }
    std::vector<TargetResult> run(const KernelSet& kernels) {
        PackedWeights packed(format_of<Scalar>, head.rows(), head.cols());
        packed.matrix().template assign_rows<Scalar>(0, head);
        LossScratch<Scalar> scratch;
        gradient.resize(hidden.rows(), hidden.cols());
        const auto results = cross_entropy<Scalar>(kernels, hidden, packed, targets, scale, gradient, scratch);
        const auto evaluated = cross_entropy<Scalar>(kernels, hidden, packed, targets, scale, {}, scratch);
        for (std::size_t i = 0; i < results.size(); ++i) {
            const double with_gradient = results[i].log_probability;
            const double without = evaluated[i].log_probability;
            EXPECT_TRUE(with_gradient == without || (std::isnan(with_gradient) && std::isnan(without))) << i;
            EXPECT_EQ(results[i].is_most_likely, evaluated[i].is_most_likely) << i;
        }
        return results;
    }
    /// Runs it; errors of gradients are relative to the magnitudes that they are sums of.
    void expect_exact_results(const KernelSet& kernels, double bound, double gradient_bound) {
        const auto results = run(kernels);
        ASSERT_EQ(results.size(), targets.size());
        for (std::size_t i = 0; i < targets.size(); ++i) {
            const std::vector<double> of_row = logits(targets[i]);
            const double largest = std::ranges::max(of_row);
            const auto label = static_cast<std::size_t>(targets[i].label);
            double sum = 0;
            for (const double logit : of_row) {
                sum += std::exp(logit - largest);
            }
            const double expected = of_row[label] - largest - std::log(sum);
            EXPECT_NEAR(results[i].log_probability, expected, bound * (1 + std::abs(expected))) << i;

            for (index_t k = 0; k < head.cols(); ++k) {
                double expected_gradient = 0;
                double magnitude = 0;
                for (std::size_t token = 0; token < of_row.size(); ++token) {
                    // expm1 keeps the digits of 1 - p
                    const double probability =
                        token == label ? std::expm1(expected) : std::exp(of_row[token] - largest) / sum;
                    const double term = scale * probability *
                                        static_cast<double>(core::widen(head.view()(static_cast<index_t>(token), k)));
                    expected_gradient += term;
                    magnitude += std::abs(term);
                }
                EXPECT_NEAR(gradient.view()(targets[i].row, k), expected_gradient, gradient_bound * magnitude)
                    << i << ", " << k;
                EXPECT_EQ(gradient.view()(targets[i].row + 1, k), Sum(0));
            }
        }
    }

    Matrix<Scalar> hidden;
    Matrix<Scalar> head;
    std::vector<Target> targets;
    Matrix<Sum> gradient;
};

struct Shape {
    index_t rows;
    index_t vocabulary;
    index_t width;
};
/// Few rows, edges of blocks, several ranges of the vocabulary, several segments of the contraction, two blocks of
/// targets.
constexpr std::array shapes = {Shape{1, 1, 5},        Shape{1, 2100, 40},  Shape{3, 70, 33},
                               Shape{40, 1025, 2100}, Shape{33, 3000, 64}, Shape{targets_per_block + 5, 70, 20}};

/// Of numerators that are rounded to BF16.
constexpr double rounding = 0x1p-8;

class LossLevels : public test::KernelLevels {};

TEST_P(LossLevels, AgreesWithDoublePrecision) {
    const KernelSet kernels(GetParam());
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(testing::Message() << shape.rows << " rows, V " << shape.vocabulary << ", H " << shape.width);
        Problem<bf16>(shape.rows, shape.vocabulary, shape.width).expect_exact_results(kernels, 1e-5, rounding);
    }
}

TEST_P(LossLevels, GivesTheSameBitsForAnyThreadCount) {
    const KernelSet kernels(GetParam());
    for (const index_t rows : {2, 300}) {
        Problem<bf16> by_one(rows, 3000, 64);
        Problem<bf16> by_four(rows, 3000, 64);
        omp_set_num_threads(1);
        const auto expected = by_one.run(kernels);
        omp_set_num_threads(4);
        const auto found = by_four.run(kernels);
        EXPECT_TRUE(std::ranges::equal(by_one.gradient.flat(), by_four.gradient.flat()));
        EXPECT_TRUE(
            std::ranges::equal(expected, found, {}, &TargetResult::log_probability, &TargetResult::log_probability));
    }
}

/// Exponentials of logits less the largest of the first ones would be infinite.
TEST_P(LossLevels, SeesLogitsFarAboveTheFirstOnes) {
    const KernelSet kernels(GetParam());
    for (const index_t rows : {2, 40}) {
        Problem<bf16> problem(rows, 2100, 1);
        problem.head.view()(first_columns + 44, 0) = bf16(110.0F);
        problem.head.view()(2000, 0) = bf16(109.5F);
        problem.head.view()(first_columns + 45, 0) = bf16(-40.0F);
        for (index_t i = 0; i < rows; ++i) {  // logits of rows are in and out of reach of their references
            problem.hidden.view()(2 * i, 0) = bf16(static_cast<float>(i % 4) * 4.0F + 0.25F);
        }
        problem.targets[1].label = first_columns + 44;
        problem.expect_exact_results(kernels, 1e-5, rounding);
    }
}

/// Labels with a probability near 1, whose gradient is the sum of small probabilities of others.
TEST_P(LossLevels, KeepsTheDigitsOfGradientsOfSureLabels) {
    Problem<bf16> problem(40, 300, 4);
    for (Target& target : problem.targets) {
        target.label = 7;
        problem.hidden.view()(target.row, 0) = bf16(1.0F);
    }
    problem.head.view()(7, 0) = bf16(30.0F);
    problem.expect_exact_results(KernelSet(GetParam()), 1e-5, rounding);
    EXPECT_GT(problem.gradient.view()(0, 0) * -1, 0.0F);
}

TEST_P(LossLevels, TellsTheFirstOfTheMostLikely) {
    const KernelSet kernels(GetParam());
    const std::vector<std::vector<std::int32_t>> cases = {
        {5, 40, 1500}, {33, 35}, {1030, 1031, 2099}, {0, 2099}, {31, 32}};
    for (const index_t repeats : {1, 20}) {
        for (const auto& best : cases) {
            Problem<bf16> problem(repeats * static_cast<index_t>(best.size()), 2100, 1);
            problem.hidden.fill(bf16(1.0F));
            for (const std::int32_t token : best) {
                problem.head.view()(token, 0) = bf16(9.0F);
            }
            for (std::size_t i = 0; i < problem.targets.size(); ++i) {
                problem.targets[i].label = best[i % best.size()];
            }
            const auto results = problem.run(kernels);
            for (std::size_t i = 0; i < results.size(); ++i) {
                EXPECT_EQ(results[i].is_most_likely, i % best.size() == 0) << best[i % best.size()];
            }
            problem.head.view()(best.front(), 0) = bf16(9.5F);  // alone
            EXPECT_TRUE(problem.run(kernels)[0].is_most_likely);
            problem.head.view()(best.back(), 0) = bf16(10.0F);
            EXPECT_FALSE(problem.run(kernels)[0].is_most_likely);
        }
    }
}

TEST_P(LossLevels, SaysWhatIsNotFinite) {
    const KernelSet kernels(GetParam());
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr std::int32_t label = 290;
    for (const index_t rows : {2, 40}) {
        for (const float value : {infinity, nan}) {
            for (const std::int32_t token : {0, label, 1700}) {
                SCOPED_TRACE(testing::Message() << rows << " rows, " << value << " of token " << token);
                Problem<bf16> problem(rows, 2100, 2);
                for (Target& target : problem.targets) {  // the second element is seen by the first row alone
                    target.label = label;
                    problem.hidden.view()(target.row, 1) = bf16(target.row == 0 ? 1.0F : 0.0F);
                }
                problem.hidden.view()(0, 1) = bf16(value);
                for (index_t other = 0; other < problem.head.rows(); ++other) {
                    problem.head.view()(other, 1) = bf16(0.0F);
                }
                problem.head.view()(token, 1) = bf16(1.0F);
                const auto results = problem.run(kernels);
                EXPECT_TRUE(std::isnan(results[0].log_probability));
                EXPECT_FALSE(results[0].is_most_likely);
                EXPECT_TRUE(std::isnan(problem.gradient.view()(0, 0)));
                for (std::size_t i = 1; i < results.size(); ++i) {
                    EXPECT_TRUE(std::isfinite(results[i].log_probability)) << i;
                    EXPECT_TRUE(std::isfinite(problem.gradient.view()(problem.targets[i].row, 0))) << i;
                }
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, LossLevels, testing::ValuesIn(kernels::gemm_kernels<bf16>()), test::kernel_name);

TEST(Loss, AgreesWithDoublePrecisionInFp32AndDouble) {
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(testing::Message() << shape.rows << " rows, V " << shape.vocabulary << ", H " << shape.width);
        Problem<float>(shape.rows, shape.vocabulary, shape.width)
            .expect_exact_results(KernelSet("portable"), 1e-5, 1e-4);
        Problem<double>(shape.rows, shape.vocabulary, shape.width)
            .expect_exact_results(KernelSet("portable"), 1e-12, 1e-11);
    }
}

}  // namespace
}  // namespace moesaic::ops
