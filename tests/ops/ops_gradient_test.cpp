// Backward of every operation against central differences in double.
#include "ops/attention.hpp"
#include "ops/elementwise.hpp"
#include "ops/lora_linear.hpp"
#include "ops/loss.hpp"
#include "ops/norm.hpp"
#include "ops/rope.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace moesaic::ops {
namespace {

using core::Matrix;
using core::MatrixView;
using test::central_difference;
using test::fill_random;
using test::random_matrix;

constexpr double tolerance = 1e-7;

const kernels::ElementwiseKernels<double>& row_kernels() {
    return *kernels::elementwise_kernels<double>().front().kernels;
}

double inner(const Matrix<double>& a, const Matrix<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += a.data()[i] * b.data()[i];
    }
    return sum;
}

/// Compares `gradient` with differences of `objective` for every element of `x`.
void expect_gradient(const std::function<double()>& objective, Matrix<double>& x, const Matrix<double>& gradient) {
    ASSERT_EQ(x.size(), gradient.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = central_difference(objective, x.data()[i]);
        EXPECT_NEAR(gradient.data()[i], expected, tolerance * (1 + std::abs(expected))) << "element " << i;
    }
}

TEST(NormGradient, MatchesDifferences) {
    Matrix<double> x = random_matrix<double>(3, 7, 1);
    const Matrix<double> grad_y = random_matrix<double>(3, 7, 2);
    const Matrix<double> weight = random_matrix<double>(1, 7, 3);
    Matrix<double> y(3, 7);
    std::vector<double> rstd(3);
    const auto objective = [&] {
        rms_norm_forward<double>(row_kernels(), x, weight.flat(), 1e-3, {y, {}, rstd});
        return inner(y, grad_y);
    };
    objective();
    Matrix<double> grad_x(3, 7);
    rms_norm_backward<double>(row_kernels(), grad_y, x, weight.flat(), rstd, grad_x, false);
    expect_gradient(objective, x, grad_x);
}

TEST(NormGradient, AddsToWhatIsThere) {
    const Matrix<double> x = random_matrix<double>(1, 4, 1);
    const Matrix<double> grad_y = random_matrix<double>(1, 4, 2);
    const std::vector<double> weight(4, 1.0);
    std::vector<double> rstd(1);
    Matrix<double> y(1, 4);
    rms_norm_forward<double>(row_kernels(), x, weight, 0, {y, {}, rstd});
    Matrix<double> overwritten(1, 4);
    Matrix<double> from_one(1, 4);
    overwritten.fill(5);
    from_one.fill(1);
    rms_norm_backward<double>(row_kernels(), grad_y, x, weight, rstd, overwritten, false);
    rms_norm_backward<double>(row_kernels(), grad_y, x, weight, rstd, from_one, true);
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(from_one.data()[i], overwritten.data()[i] + 1, 1e-14);
    }
}

TEST(NormForward, OfASumIsTheNormOfTheSum) {
    const Matrix<double> x = random_matrix<double>(3, 5, 1);
    const Matrix<double> addend = random_matrix<double>(3, 5, 2);
    const std::vector<double> weight(5, 1.5);
    Matrix<double> sum(3, 5);
    Matrix<double> y(3, 5);
    Matrix<double> wide(3, 5);
    Matrix<double> expected(3, 5);
    std::vector<double> rstd(3);
    add_and_rms_norm_forward<double>(row_kernels(), x, addend, sum, weight, 1e-3, {y, wide, rstd});
    rms_norm_forward<double>(row_kernels(), sum, weight, 1e-3, {expected, {}, rstd});
    for (std::size_t i = 0; i < sum.size(); ++i) {
        EXPECT_EQ(sum.data()[i], x.data()[i] + addend.data()[i]);
        EXPECT_EQ(y.data()[i], expected.data()[i]);
        EXPECT_EQ(wide.data()[i], expected.data()[i]);
    }
}

class RopeGradient : public testing::TestWithParam<bool> {};

/// Heads of 9 elements, 6 of which are rotated.
TEST_P(RopeGradient, MatchesDifferences) {
    RopeSettings settings;
    settings.size = 6;
    settings.interleaved = GetParam();
    settings.attention_factor = 1.3;
    RotaryTable<double> table(settings);
    table.extend(50);
    const RotaryRange part = {9, 2};
    Matrix<double> x = random_matrix<double>(4, 18, 1);
    const Matrix<double> grad = random_matrix<double>(4, 18, 2);
    const std::vector<index_t> positions = {0, 1, 17, 49};
    Matrix<double> y(4, 18);
    const auto objective = [&] {
        std::copy_n(x.data(), x.size(), y.data());
        for (index_t row = 0; row < 4; ++row) {
            table.rotate(row_kernels(), part, y.view().row(row), positions[static_cast<std::size_t>(row)]);
        }
        return inner(y, grad);
    };
    Matrix<double> grad_x(4, 18);
    std::copy_n(grad.data(), grad.size(), grad_x.data());
    for (index_t row = 0; row < 4; ++row) {
        table.rotate_back(row_kernels(), part, grad_x.view().row(row), positions[static_cast<std::size_t>(row)]);
    }
    expect_gradient(objective, x, grad_x);
}
INSTANTIATE_TEST_SUITE_P(Interleaved, RopeGradient, testing::Bool());

TEST(SwigluGradient, MatchesDifferences) {
    Matrix<double> gate = random_matrix<double>(3, 5, 1);
    Matrix<double> up = random_matrix<double>(3, 5, 2);
    Matrix<double> weight = random_matrix<double>(1, 3, 3);
    const Matrix<double> grad_out = random_matrix<double>(3, 5, 4);
    Matrix<double> out(3, 5);
    const auto objective = [&] {
        swiglu_forward<double, double>(row_kernels(), gate, up, weight.data(), out);
        return inner(out, grad_out);
    };
    Matrix<double> grad_gate(3, 5);
    Matrix<double> grad_up(3, 5);
    Matrix<double> grad_weight(1, 3);
    swiglu_backward<double>(row_kernels(), grad_out, gate, up, weight.data(), grad_gate, grad_up, grad_weight.data());
    expect_gradient(objective, gate, grad_gate);
    expect_gradient(objective, up, grad_up);
    expect_gradient(objective, weight, grad_weight);
}

/// A projection with bias and an adapter, whose matrices are all different from zero.
template <class Scalar>
struct AdaptedLinear {
    using Sum = accumulator_t<Scalar>;

    AdaptedLinear(index_t out, index_t in, index_t lora_rank)
        : values(1, lora_rank * (in + out)),
          gradients(1, lora_rank * (in + out)),
          linear(kernels, {out, in, true, lora_rank, 2.0 / std::sqrt(3.0)}, 11) {
        fill_random(values.view(), 3);
        gradients.fill(0);
        const auto a = MatrixView<Sum>(values.data(), lora_rank, in);
        const auto b = MatrixView<Sum>(values.data() + lora_rank * in, out, lora_rank);
        linear.bind({a, b}, {{gradients.data(), lora_rank, in}, {gradients.data() + lora_rank * in, out, lora_rank}});
        const Matrix<core::bf16> weight = random_matrix<core::bf16>(out, in, 5, 0.3);  // exact in every type
        Matrix<Scalar> own(out, in);
        std::transform(weight.data(), weight.data() + weight.size(), own.data(),
                       [](core::bf16 w) { return static_cast<Scalar>(core::widen(w)); });
        linear.weight().allocate();
        linear.weight().matrix().template assign_rows<Scalar>(0, own);
        std::iota(linear.bias().begin(), linear.bias().end(), Sum(1));
        linear.update_lora();
    }
    void forward(const Matrix<Sum>& x, Matrix<Sum>& y) {
        Matrix<Scalar> rounded(x.rows(), x.cols());
        convert<Scalar>(kernels.elementwise<Scalar>(), x, rounded.view());
        linear.forward({rounded, x}, y, dropout, scratch);
    }
    void backward(const Matrix<Scalar>& x, const Matrix<Scalar>& grad_y, MatrixView<Sum> grad_x,
                  bool accumulate = false) {
        linear.backward(x, grad_y, grad_x, dropout, scratch, accumulate);
    }

    kernels::KernelSet kernels{"portable", 2};
    Matrix<Sum> values;     // A [R, in], then B [out, R]
    Matrix<Sum> gradients;  // the same
    LoraLinear<Scalar> linear;
    LinearScratch<Scalar> scratch;
    Dropout dropout;
};

TEST(LoraLinearGradient, MatchesDifferences) {
    AdaptedLinear<double> model(5, 7, 3);
    Matrix<double> x = random_matrix<double>(4, 7, 1);
    const Matrix<double> grad_y = random_matrix<double>(4, 5, 2);
    Matrix<double> y(4, 5);
    const auto objective = [&] {
        model.linear.update_lora();
        model.forward(x, y);
        return inner(y, grad_y);
    };
    Matrix<double> grad_x(4, 7);
    model.backward(x, grad_y, grad_x);
    expect_gradient(objective, x, grad_x);
    expect_gradient(objective, model.values, model.gradients);
}

TEST(LoraLinearGradient, OfTheInputIsOptionalAndAccumulates) {
    AdaptedLinear<double> model(5, 7, 3);
    const Matrix<double> x = random_matrix<double>(4, 7, 1);
    const Matrix<double> grad_y = random_matrix<double>(4, 5, 2);
    Matrix<double> once(4, 7);
    model.backward(x, grad_y, once);
    Matrix<double> expected(1, model.values.cols());
    std::copy_n(model.gradients.data(), expected.size(), expected.data());
    model.gradients.fill(0);
    model.backward(x, grad_y, {});
    for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(model.gradients.data()[i], expected.data()[i]);
    }
    Matrix<double> twice(4, 7);
    twice.fill(1);
    model.backward(x, grad_y, twice, true);
    for (std::size_t i = 0; i < once.size(); ++i) {
        EXPECT_NEAR(twice.data()[i], once.data()[i] + 1, 1e-14);
    }
}

/// Inputs in two parts and adapters in FP32: see LoraLinear.
TEST(LoraLinearForward, InBf16KeepsMoreDigitsThanBf16Has) {
    AdaptedLinear<core::bf16> model(50, 70, 3);
    AdaptedLinear<double> exact(50, 70, 3);
    std::copy_n(model.values.data(), model.values.size(), exact.values.data());
    for (const index_t rows : {3, 90}) {  // few rows have a way of their own
        const Matrix<float> x = random_matrix<float>(rows, 70, 1);
        Matrix<double> exact_x(rows, 70);
        std::copy_n(x.data(), x.size(), exact_x.data());
        Matrix<float> y(rows, 50);
        Matrix<double> exact_y(rows, 50);
        model.forward(x, y);
        exact.forward(exact_x, exact_y);
        for (std::size_t i = 0; i < y.size(); ++i) {
            EXPECT_NEAR(y.data()[i], exact_y.data()[i], 2e-4) << i;  // BF16 inputs: 1e-2
        }
    }
}

TEST(LoraLinearForward, DropsElementsOfTheInputOfAAlone) {
    AdaptedLinear<double> model(5, 7, 3);
    const Matrix<double> x = random_matrix<double>(3, 7, 1);
    const std::vector<std::uint64_t> tokens = {4, 9, 2};
    Matrix<double> with(3, 5);
    Matrix<double> without(3, 5);
    model.forward(x, without);
    model.dropout = {0.5, 1, 0, tokens};
    model.forward(x, with);
    const DropoutMask mask(model.dropout, 11);
    Matrix<double> removed = random_matrix<double>(3, 7, 1);
    index_t dropped = 0;
    for (index_t row = 0; row < 3; ++row) {
        mask.apply(tokens[static_cast<std::size_t>(row)], 0, 7, removed.view()[row]);
        for (index_t i = 0; i < 7; ++i) {
            dropped += removed.view()(row, i) == 0 ? 1 : 0;
            removed.view()(row, i) -= x.view()(row, i);
        }
    }
    EXPECT_GT(dropped, 0);
    EXPECT_LT(dropped, 21);
    // The difference is that of the low-rank part: s B A (dropped x - x).
    const MatrixView<double> a(model.values.data(), 3, 7);
    const MatrixView<double> b(model.values.data() + 21, 5, 3);
    for (index_t row = 0; row < 3; ++row) {
        for (index_t n = 0; n < 5; ++n) {
            double expected = 0;
            for (index_t r = 0; r < 3; ++r) {
                for (index_t k = 0; k < 7; ++k) {
                    expected += 2.0 / std::sqrt(3.0) * b(n, r) * a(r, k) * removed.view()(row, k);
                }
            }
            EXPECT_NEAR(with.view()(row, n) - without.view()(row, n), expected, 1e-12);
        }
    }
}

TEST(DropoutMask, KeepsTheRightShareWithoutPatterns) {
    const DropoutMask mask({0.25, 1, 0, {}}, 5);
    EXPECT_EQ(mask.scale(), 4.0 / 3.0);
    index_t kept = 0;
    for (std::uint64_t token = 0; token < 1000; ++token) {
        kept += std::popcount(mask.kept(token, 64));
        // Any 32 features agree with the others that overlap them.
        EXPECT_EQ(mask.kept(token, 5) >> 3U, mask.kept(token, 8) & 0x1FFFFFFFU);
    }
    EXPECT_NEAR(static_cast<double>(kept) / 32000, 0.75, 0.01);
    EXPECT_NE(mask.kept(1, 0), mask.kept(2, 0));
    EXPECT_NE(mask.kept(1, 0), DropoutMask({0.25, 1, 0, {}}, 6).kept(1, 0));
    EXPECT_NE(mask.kept(1, 0), DropoutMask({0.25, 1, 1, {}}, 5).kept(1, 0));
    EXPECT_NE(mask.kept(1, 0), DropoutMask({0.25, 2, 0, {}}, 5).kept(1, 0));
}

TEST(AttentionGradient, MatchesDifferencesOverSeveralSequencesAndBlocks) {
    const kernels::KernelSet kernels("portable");
    const AttentionShape shape{4, 2, 3, 3, 0.6};
    const std::vector<index_t> offsets = {0, 1, 71, 76};  // the second sequence has two blocks of queries
    Matrix<double> query = random_matrix<double>(76, 12, 1);
    Matrix<double> key = random_matrix<double>(76, 6, 2);
    Matrix<double> value = random_matrix<double>(76, 6, 3);
    const Matrix<double> grad_output = random_matrix<double>(76, 12, 4);
    Matrix<double> output(76, 12);
    Matrix<double> log_sum(76, 4);
    const auto objective = [&] {
        attention_forward<double>(kernels, shape, {{query}, {key}, {value}, offsets}, output, {}, log_sum);
        return inner(output, grad_output);
    };
    objective();
    Matrix<double> grad_query(76, 12);
    Matrix<double> grad_key(76, 6);
    Matrix<double> grad_value(76, 6);
    attention_backward<double>(kernels, shape, {{query}, {key}, {value}, offsets}, output, log_sum, grad_output,
                               grad_query, grad_key, grad_value);
    const auto spot_check = [&](Matrix<double>& x, const Matrix<double>& gradient) {
        for (std::size_t i = 0; i < x.size(); i += 13) {  // a prime step visits all columns and rows of both blocks
            EXPECT_NEAR(gradient.data()[i], central_difference(objective, x.data()[i]), tolerance) << i;
        }
    };
    spot_check(query, grad_query);
    spot_check(key, grad_key);
    spot_check(value, grad_value);
}

TEST(AttentionForward, SeesOnlyItsOwnSequenceAndThePast) {
    const kernels::KernelSet kernels("portable");
    const AttentionShape shape{1, 1, 2, 2, 1.0};
    const std::vector<index_t> offsets = {0, 3, 5};
    const Matrix<double> query = random_matrix<double>(5, 2, 1);
    const Matrix<double> key = random_matrix<double>(5, 2, 2);
    Matrix<double> value = random_matrix<double>(5, 2, 3);
    Matrix<double> before(5, 2);
    Matrix<double> after(5, 2);
    Matrix<double> log_sum(5, 1);
    attention_forward<double>(kernels, shape, {{query}, {key}, {value}, offsets}, before, {}, log_sum);
    value.view()(2, 0) += 1;  // the last token of the first sequence
    attention_forward<double>(kernels, shape, {{query}, {key}, {value}, offsets}, after, {}, log_sum);
    for (const index_t row : {0, 1, 3, 4}) {
        EXPECT_EQ(before.view()(row, 0), after.view()(row, 0)) << row;
    }
    EXPECT_NE(before.view()(2, 0), after.view()(2, 0));
    // A first token sees itself alone.
    EXPECT_NEAR(after.view()(3, 1), value.view()(3, 1), 1e-15);
}

TEST(LossGradient, MatchesDifferences) {
    const kernels::KernelSet kernels("portable");
    Matrix<double> hidden = random_matrix<double>(6, 4, 1);
    PackedWeights head(format_of<double>, 9, 4);
    head.matrix().assign_rows<double>(0, random_matrix<double>(9, 4, 2));
    const std::vector<Target> targets = {{0, 0, 3}, {2, 0, 8}, {5, 1, 0}};
    LossScratch<double> scratch;
    Matrix<double> grad_hidden(6, 4);
    const auto objective = [&] {
        double sum = 0;
        for (const TargetResult& result : cross_entropy<double>(kernels, hidden, head, targets, 0.3, {}, scratch)) {
            sum -= 0.3 * result.log_probability;
        }
        return sum;
    };
    const auto results = cross_entropy<double>(kernels, hidden, head, targets, 0.3, grad_hidden, scratch);
    ASSERT_EQ(results.size(), 3U);
    expect_gradient(objective, hidden, grad_hidden);
}

TEST(LossForward, SaysWhichTokenIsMostLikely) {
    const kernels::KernelSet kernels("portable");
    Matrix<float> hidden(1, 1);
    hidden.fill(1);
    Matrix<float> logits(3, 1);
    PackedWeights head(format_of<float>, 3, 1);
    std::copy_n(std::array{0.0F, 2.0F, 1.0F}.data(), 3, logits.data());
    head.matrix().assign_rows<float>(0, logits);
    LossScratch<float> scratch;
    const std::vector<Target> best = {{0, 0, 1}};
    const std::vector<Target> other = {{0, 0, 2}};
    EXPECT_TRUE(cross_entropy<float>(kernels, hidden, head, best, 1, {}, scratch)[0].is_most_likely);
    const TargetResult result = cross_entropy<float>(kernels, hidden, head, other, 1, {}, scratch)[0];
    EXPECT_FALSE(result.is_most_likely);
    EXPECT_NEAR(result.log_probability, 1 - std::log(1 + std::exp(2.0) + std::exp(1.0)), 1e-6);
    logits.fill(0);  // of equal logits the first one counts
    head.matrix().assign_rows<float>(0, logits);
    EXPECT_FALSE(cross_entropy<float>(kernels, hidden, head, best, 1, {}, scratch)[0].is_most_likely);
}

TEST(TargetsOf, ShiftsLabelsWithinSequences) {
    TokenBatch batch;
    batch.tokens = {1, 2, 3, 4, 5};
    batch.labels = {1, ignored_label, 3, 4, 5};
    batch.positions = {0, 1, 2, 0, 1};
    batch.offsets = {0, 3, 5};
    const auto targets = targets_of(batch);
    ASSERT_EQ(targets.size(), 2U);  // the first label of a sequence is predicted by nothing
    EXPECT_EQ(targets[0].row, 1);
    EXPECT_EQ(targets[0].label, 3);
    EXPECT_EQ(targets[1].row, 3);
    EXPECT_EQ(targets[1].sequence, 1);
}

}  // namespace
}  // namespace moesaic::ops
