// The auxiliary loss of routers by hand, and counts of their choices.
#include "model/feed_forward/router_balance.hpp"
#include "support/small_configs.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace moesaic::model {
namespace {

/// Two MoE layers after a dense one, with two tokens and three experts.
struct Example {
    Example() {
        nlohmann::json config = test::small_config("qwen3_moe");
        config["num_experts"] = 3;
        architecture = test::read_config(config);
        tape.layers.resize(3);
        fill(tape.layers[1], {0.5, 0.3, 0.2, 0.1, 0.2, 0.7}, {0, 1, 2, 1});
        fill(tape.layers[2], {0.6, 0.3, 0.1, 0.4, 0.35, 0.25}, {0, 1, 0, 1});
    }
    static void fill(LayerTape<double>& layer, const std::vector<double>& probabilities,
                     const std::vector<std::int32_t>& ids) {
        layer.scores.resize(2, 3);
        layer.expert_ids.resize(2, 2);
        std::copy(probabilities.begin(), probabilities.end(), layer.scores.data());
        std::copy(ids.begin(), ids.end(), layer.expert_ids.data());
    }

    Architecture architecture;
    Tape<double> tape;
};

TEST(RouterBalance, IsTheLossOfTransformers) {
    const Example example;
    const RouterBalance balance = router_balance<double>(example.architecture, example.tape, mpi::Communicator::self());
    // Shares of the four rows: 3/4, 4/4 and 1/4; mean probabilities 0.4, 0.2875 and 0.3125.
    EXPECT_NEAR(balance.loss, 3 * (0.75 * 0.4 + 1 * 0.2875 + 0.25 * 0.3125), 1e-14);
    ASSERT_EQ(balance.gradient.size(), 3U);
    EXPECT_NEAR(balance.gradient[0], 3 * 0.75 / 4, 1e-15);
}

TEST(RouterBalance, OfNoTokensIsZero) {
    Example example;
    for (LayerTape<double>& layer : example.tape.layers) {
        layer.scores.resize(0, 3);
    }
    const RouterBalance balance = router_balance<double>(example.architecture, example.tape, mpi::Communicator::self());
    EXPECT_EQ(balance.loss, 0);
    EXPECT_EQ(balance.gradient, (std::vector<double>{0, 0, 0}));
}

TEST(ExpertLoad, CountsLayersApart) {
    const Example example;
    std::vector<index_t> counts(6, 0);
    count_experts<double>(example.architecture, example.tape, counts);
    EXPECT_EQ(counts, (std::vector<index_t>{1, 2, 1, 2, 2, 0}));
    const ExpertLoad load = expert_load(counts, 3);
    EXPECT_EQ(load.unused, 1);
    EXPECT_DOUBLE_EQ(load.largest_ratio, 2 / (4.0 / 3));
    EXPECT_EQ(expert_load(std::vector<index_t>{0, 0, 0}, 3).largest_ratio, 0);
}

}  // namespace
}  // namespace moesaic::model
