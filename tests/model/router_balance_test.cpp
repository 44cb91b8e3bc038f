// The auxiliary loss of routers by hand, and counts of their choices.
#include "model/feed_forward/router_balance.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace moesaic::model {
namespace {

constexpr index_t experts = 3;

/// Adds a layer in which `rows` tokens choose two of three experts.
void add_layer(RouterLoad& load, index_t rows, const std::vector<double>& probabilities,
               const std::vector<std::int32_t>& ids) {
    load.add<double>({ids.data(), rows, 2}, experts, {probabilities.data(), rows, experts});
}

/// Two layers of two tokens.
RouterLoad example() {
    RouterLoad load;
    add_layer(load, 2, {0.5, 0.3, 0.2, 0.1, 0.2, 0.7}, {0, 1, 2, 1});
    add_layer(load, 2, {0.6, 0.3, 0.1, 0.4, 0.35, 0.25}, {0, 1, 0, 1});
    return load;
}

TEST(RouterBalance, IsTheLossOfTransformers) {
    const RouterBalance balance = router_balance(example(), mpi::Communicator::self());
    // Shares of the four rows: 3/4, 4/4 and 1/4; mean probabilities 0.4, 0.2875 and 0.3125.
    EXPECT_NEAR(balance.loss, 3 * (0.75 * 0.4 + 1 * 0.2875 + 0.25 * 0.3125), 1e-14);
    ASSERT_EQ(balance.gradient.size(), 3U);
    EXPECT_NEAR(balance.gradient[0], 3 * 0.75 / 4, 1e-15);
}

TEST(RouterBalance, OfNoTokensIsZero) {
    RouterLoad load;
    add_layer(load, 0, {}, {});
    const RouterBalance balance = router_balance(load, mpi::Communicator::self());
    EXPECT_EQ(balance.loss, 0);
    EXPECT_EQ(balance.gradient, (std::vector<double>{0, 0, 0}));
}

TEST(ExpertLoad, CountsLayersApart) {
    const std::vector<index_t> counts = example().counts;
    EXPECT_EQ(counts, (std::vector<index_t>{1, 2, 1, 2, 2, 0}));
    const ExpertLoad load = expert_load(counts, 3);
    EXPECT_EQ(load.unused, 1);
    EXPECT_DOUBLE_EQ(load.largest_ratio, 2 / (4.0 / 3));
    EXPECT_EQ(expert_load(std::vector<index_t>{0, 0, 0}, 3).largest_ratio, 0);
}

}  // namespace
}  // namespace moesaic::model
