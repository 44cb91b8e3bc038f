// Random matrices that ranks and threads make in parts.
#include "core/random_fill.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace moesaic::core {
namespace {

TEST(RandomFill, PartsFitTogetherWhereverTheMatrixIsCut) {
    constexpr index_t rows = 7;
    constexpr index_t cols = 45;
    Matrix<float> whole(rows, cols);
    fill_random<float>(whole, 3, 4, 1);
    for (const auto& [row, col] : {std::pair{0, 0}, {2, 8}, {1, 13}, {6, 44}}) {
        Matrix<float> part(rows - row, cols - col);
        fill_random<float>(part, {.cols = cols, .row_begin = row, .col_begin = col}, 3, 4, 1);
        for (index_t i = 0; i < part.rows(); ++i) {
            for (index_t j = 0; j < part.cols(); ++j) {
                ASSERT_EQ(part.view()(i, j), whole.view()(row + i, col + j)) << row << " " << col;
            }
        }
    }
}

TEST(RandomFill, NothingBesideThePartIsWritten) {
    Matrix<float> frame(4, 20);
    frame.fill(-7);
    fill_random<float>(frame.view().rows(1, 2).columns(3, 10), {.cols = 30, .row_begin = 5, .col_begin = 11}, 0, 0, 1);
    int untouched = 0;
    for (const float value : frame.flat()) {
        untouched += value == -7 ? 1 : 0;
    }
    EXPECT_EQ(untouched, 4 * 20 - 2 * 10);
}

TEST(RandomFill, MomentsAndTypesAgree) {
    Matrix<float> wide(100, 1000);
    Matrix<bf16> narrow(100, 1000);
    fill_random<float>(wide, 1, 0, 0.5);
    fill_random<bf16>(narrow, 1, 0, 0.5);
    double sum = 0;
    double squares = 0;
    for (std::size_t i = 0; i < wide.size(); ++i) {
        ASSERT_EQ(wide.data()[i], static_cast<float>(narrow.data()[i]));
        sum += wide.data()[i];
        squares += wide.data()[i] * wide.data()[i];
    }
    const auto count = static_cast<double>(wide.size());
    EXPECT_NEAR(sum / count, 0, 5 * 0.5 / std::sqrt(count));
    EXPECT_NEAR(std::sqrt(squares / count), 0.5, 0.005);
}

TEST(RandomFill, SeedsAndStreamsDiffer) {
    Matrix<float> first(1, 64);
    Matrix<float> other(1, 64);
    fill_random<float>(first, 1, 1, 1);
    for (const auto& [seed, stream] : {std::pair{1U, 2U}, {2U, 1U}}) {
        fill_random<float>(other, seed, stream, 1);
        int equal = 0;
        for (std::size_t i = 0; i < first.size(); ++i) {
            equal += first.data()[i] == other.data()[i] ? 1 : 0;
        }
        EXPECT_LT(equal, 4);
    }
}

}  // namespace
}  // namespace moesaic::core
