// Models without files.
#include "model/weights/synthetic.hpp"

#include "core/error.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace moesaic::model {
namespace {

using core::Matrix;

TEST(Synthetic, EveryKnownModelIsComplete) {
    ASSERT_FALSE(synthetic_names().empty());
    for (const std::string& name : synthetic_names()) {
        const Architecture a = synthetic_architecture(name);
        EXPECT_GT(a.moe_layers(), 1) << name;
        EXPECT_EQ(static_cast<index_t>(a.is_moe.size()), a.layers) << name;
        EXPECT_GT(a.vocabulary, 10000) << name;
    }
}

TEST(Synthetic, UnknownNamesAreRefusedWithTheNearest) {
    try {
        (void)synthetic_architecture("qwen3-30b-a3");
        ADD_FAILURE();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        EXPECT_NE(std::string(error.what()).find("did you mean qwen3-30b-a3b?"), std::string::npos) << error.what();
    }
}

TEST(Synthetic, LayersCanBeLimited) {
    Architecture a = synthetic_architecture("qwen3-30b-a3b");
    a.limit_layers(1000);
    EXPECT_EQ(a.layers, 48);
    a.limit_layers(2);
    EXPECT_EQ(a.layers, 2);
    EXPECT_EQ(a.moe_layers(), 2);
}

TEST(Synthetic, SlicesAreThoseOfTheWholeTensor) {
    const SyntheticWeights<float> weights(7);
    Matrix<float> whole(6, 40);
    Matrix<float> slice(3, 11);
    weights.read("some.weight", {whole.rows(), whole.cols(), 0, 0}, whole);
    weights.read("some.weight", {.rows = 6, .cols = 40, .row_begin = 2, .col_begin = 13}, slice);
    for (index_t i = 0; i < slice.rows(); ++i) {
        for (index_t j = 0; j < slice.cols(); ++j) {
            EXPECT_EQ(slice.view()(i, j), whole.view()(2 + i, 13 + j));
        }
    }
}

TEST(Synthetic, TensorsDifferAndNormsAreOnes) {
    const SyntheticWeights<float> weights(7);
    Matrix<float> one(64, 64);
    Matrix<float> other(64, 64);
    weights.read("one.weight", {one.rows(), one.cols(), 0, 0}, one);
    weights.read_full_precision("other.weight", TensorRole::matrix, other);
    EXPECT_NE(one.data()[0], other.data()[0]);
    double squares = 0;
    for (const float value : one.flat()) {
        squares += value * value;
    }
    EXPECT_NEAR(squares / 64, 1, 0.1);  // a unit input gives outputs of variance 1/64 each
    std::vector<float> norm(5, 0);
    weights.read_vector("a.weight", TensorRole::scale, norm);
    EXPECT_EQ(norm, std::vector<float>(5, 1));
    weights.read_vector("b.weight", TensorRole::offset, norm);
    EXPECT_EQ(norm, std::vector<float>(5, 0));
    weights.read_vector("gate.weight", TensorRole::matrix, norm);
    EXPECT_NE(norm[0], norm[1]);
}

/// The first experts get more choices than the last ones, and routers are scaled by what this is drawn with.
TEST(Synthetic, RoutersCanBeSkewed) {
    const std::vector<double> even = skewed_popularity(16, 4, 0);
    const std::vector<double> skewed = skewed_popularity(16, 4, 16);
    EXPECT_NEAR(std::accumulate(skewed.begin(), skewed.end(), 0.0), 1, 1e-9);
    EXPECT_NEAR(even.front(), 1.0 / 16, 0.01);
    EXPECT_GT(skewed.front(), 1.5 / 16);
    EXPECT_LT(skewed.back(), 0.7 / 16);
    core::Matrix<float> plain(16, 8);
    core::Matrix<float> scaled(16, 8);
    SyntheticWeights<float>(7).read_full_precision("router", TensorRole::matrix, plain);
    SyntheticWeights<float>(7, 2).read_full_precision("router", TensorRole::matrix, scaled);
    EXPECT_FLOAT_EQ(scaled.view()(0, 3), 3 * plain.view()(0, 3));
    EXPECT_FLOAT_EQ(scaled.view()(15, 3), plain.view()(15, 3));
}

}  // namespace
}  // namespace moesaic::model
