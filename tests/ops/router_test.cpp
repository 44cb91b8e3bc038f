// The choice of experts, their weights, and the gradient of these against differences in double.
#include "ops/router.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace moesaic::ops {
namespace {

using core::Matrix;
using test::random_matrix;

const kernels::ElementwiseKernels<double>& row_kernels() {
    return *kernels::elementwise_kernels<double>().front().kernels;
}

struct Routing {
    Matrix<double> scores;
    Matrix<std::int32_t> ids;
    Matrix<double> weights;

    [[nodiscard]] std::vector<std::int32_t> chosen(index_t row) const {
        const auto span = ids.view().row(row);
        return {span.begin(), span.end()};
    }
};

Routing route(const RouterSettings& router, const Matrix<double>& logits, index_t choices,
              const std::vector<double>& bias = {}) {
    Routing result{Matrix<double>(logits.rows(), logits.cols()), Matrix<std::int32_t>(logits.rows(), choices),
                   Matrix<double>(logits.rows(), choices)};
    std::copy_n(logits.data(), logits.size(), result.scores.data());
    route_forward<double>(row_kernels(), router, bias, result.scores, result.ids, result.weights);
    return result;
}

Matrix<double> row_of(const std::vector<double>& values) {
    Matrix<double> row(1, static_cast<index_t>(values.size()));
    std::copy(values.begin(), values.end(), row.data());
    return row;
}

class RouterGradient : public testing::TestWithParam<RouterSettings> {};

TEST_P(RouterGradient, MatchesDifferences) {
    const RouterSettings& router = GetParam();
    Matrix<double> logits = random_matrix<double>(5, 6, 11);
    const Matrix<double> grad_weights = random_matrix<double>(5, 3, 12);
    const std::vector<double> bias =
        router.has_correction_bias ? std::vector<double>{0.3, -0.2, 0, 0.1, -0.4, 0.2} : std::vector<double>();
    const auto objective = [&] {
        const Routing routing = route(router, logits, 3, bias);
        double sum = 0;
        for (std::size_t i = 0; i < grad_weights.size(); ++i) {
            sum += routing.weights.data()[i] * grad_weights.data()[i];
        }
        return sum;
    };
    const Routing routing = route(router, logits, 3, bias);
    Matrix<double> grad_logits(5, 6);
    route_backward<double>(router, routing.scores, routing.ids, routing.weights, grad_weights, grad_logits);
    for (std::size_t i = 0; i < logits.size(); ++i) {
        EXPECT_NEAR(grad_logits.data()[i], test::central_difference(objective, logits.data()[i]), 1e-8) << i;
    }
}
INSTANTIATE_TEST_SUITE_P(Kinds, RouterGradient,
                         testing::Values(RouterSettings{}, RouterSettings{.normalize = true},
                                         RouterSettings{.groups = 3, .chosen_groups = 2, .scale = 16},
                                         RouterSettings{.scoring = Scoring::sigmoid,
                                                        .groups = 3,
                                                        .chosen_groups = 2,
                                                        .group_leaders = 2,
                                                        .has_correction_bias = true,
                                                        .normalize = true,
                                                        .epsilon = 0.1,
                                                        .scale = 2.5},
                                         RouterSettings{.scoring = Scoring::sigmoid, .scale = 0.5}));

TEST(Router, ChoosesLargestAndLowerNumberOnTies) {
    const Routing first = route({.normalize = true}, row_of({0, 2, 1, 2}), 2);
    EXPECT_EQ(first.chosen(0), (std::vector<std::int32_t>{1, 3}));
    EXPECT_DOUBLE_EQ(first.weights.data()[0], 0.5);
    EXPECT_EQ(route({}, row_of({5, 5, 5, 5}), 2).chosen(0), (std::vector<std::int32_t>{0, 1}));
}

TEST(Router, ScalesWeights) {
    const Routing plain = route({}, row_of({1, 3, 2}), 2);
    const Routing scaled = route({.scale = 16}, row_of({1, 3, 2}), 2);
    const double sum = std::exp(1) + std::exp(3) + std::exp(2);
    EXPECT_NEAR(plain.weights.data()[0], std::exp(3) / sum, 1e-15);
    EXPECT_NEAR(scaled.weights.data()[1], 16 * std::exp(2) / sum, 1e-14);
}

/// The best expert is in a group whose others are poor: what counts is the best expert of a group, or its best two.
TEST(Router, ComparesGroupsByTheirLeaders) {
    const Matrix<double> logits = row_of({3, -9, 2, 1.9, 1, 0.9});
    EXPECT_EQ(route({.groups = 3, .chosen_groups = 1}, logits, 2).chosen(0), (std::vector<std::int32_t>{0, 1}));
    const RouterSettings two = {
        .scoring = Scoring::sigmoid, .groups = 3, .chosen_groups = 2, .group_leaders = 2, .scale = 1};
    EXPECT_EQ(route(two, logits, 3).chosen(0), (std::vector<std::int32_t>{2, 3, 4}));
}

TEST(Router, BiasCorrectsTheChoiceButNotTheWeights) {
    const RouterSettings router = {.scoring = Scoring::sigmoid, .has_correction_bias = true};
    const Routing routing = route(router, row_of({2, 1, 0}), 1, {-1, 0, 0.1});
    EXPECT_EQ(routing.chosen(0), (std::vector<std::int32_t>{1}));
    EXPECT_NEAR(routing.weights.data()[0], 1 / (1 + std::exp(-1)), 1e-15);
}

/// An excluded group counts as zero, which is more than a negative preference.
TEST(Router, MayChooseExcludedExpertsBeforeNegativeOnes) {
    const RouterSettings router = {
        .scoring = Scoring::sigmoid, .groups = 2, .chosen_groups = 1, .group_leaders = 2, .has_correction_bias = true};
    const Routing routing = route(router, row_of({0, 0, -3, -3}), 2, {1, -1, -1, -1});
    EXPECT_EQ(routing.chosen(0), (std::vector<std::int32_t>{0, 2}));
}

}  // namespace
}  // namespace moesaic::ops
