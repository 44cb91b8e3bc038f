#include "bench/routing.hpp"
#include "core/enumeration.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace moesaic::bench {
namespace {

const LayerShape shape = {"", 1, 1, 32, 6};
constexpr index_t tokens = 1000;

std::vector<index_t> tokens_of_experts(const Routes& routes) {
    std::vector<index_t> counts(static_cast<std::size_t>(shape.experts));
    for (const std::int32_t expert : routes.experts.flat()) {
        ++counts.at(static_cast<std::size_t>(expert));
    }
    return counts;
}

TEST(Routing, TokensChooseDifferentExpertsWithWeightsOfSumOne) {
    for (const Routing routing : core::values_of<Routing>()) {
        const Routes routes = make_routes(routing, tokens, shape, 5);
        for (index_t t = 0; t < tokens; ++t) {
            const auto ids = routes.experts.view().row(t);
            EXPECT_EQ(std::set<std::int32_t>(ids.begin(), ids.end()).size(), ids.size())
                << core::name_of(routing) << ", token " << t;
            const auto weights = routes.weights.view().row(t);
            EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0F), 1.0F, 1e-5F);
            EXPECT_GT(*std::min_element(weights.begin(), weights.end()), 0.0F);
        }
        const auto counts = tokens_of_experts(routes);
        EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), index_t{0}), tokens * shape.experts_per_token);
    }
}

TEST(Routing, UniformIsBalanced) {
    const auto counts = tokens_of_experts(make_routes(Routing::uniform, tokens, shape, 5));
    const auto [fewest, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LE(*most - *fewest, 2);
}

TEST(Routing, SkewedFavoursTheFirstExperts) {
    const auto counts = tokens_of_experts(make_routes(Routing::skewed, tokens, shape, 5));
    EXPECT_GT(counts.front(), 4 * counts.back());
    const auto half = counts.begin() + shape.experts / 2;
    EXPECT_GT(std::accumulate(counts.begin(), half, index_t{0}), 2 * std::accumulate(half, counts.end(), index_t{0}));
}

TEST(Routing, HotGivesOneExpertToAllTokens) {
    const auto counts = tokens_of_experts(make_routes(Routing::hot, tokens, shape, 5));
    EXPECT_EQ(counts.front(), tokens);
    const auto [fewest, most] = std::minmax_element(counts.begin() + 1, counts.end());
    EXPECT_LE(*most - *fewest, 2);
}

TEST(Routing, DependsOnTheSeedAlone) {
    const auto ids = [](std::uint64_t seed) {
        const Routes routes = make_routes(Routing::uniform, 50, shape, seed);
        const auto all = routes.experts.flat();
        return std::vector<std::int32_t>(all.begin(), all.end());
    };
    EXPECT_EQ(ids(1), ids(1));
    EXPECT_NE(ids(1), ids(2));
}

TEST(Routing, ExtremeShapes) {
    for (const Routing routing : core::values_of<Routing>()) {
        EXPECT_EQ(make_routes(routing, 3, {"", 1, 1, 4, 4}, 1).experts_in_use(), 4) << core::name_of(routing);
        EXPECT_EQ(make_routes(routing, 3, {"", 1, 1, 1, 1}, 1).experts_in_use(), 1) << core::name_of(routing);
    }
}

}  // namespace
}  // namespace moesaic::bench
