// Which experts the tokens of a benchmark choose.
#pragma once

#include "bench/shapes.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::bench {

/// Chosen experts and their weights, as a router gives them: K different experts per token, positive weights of sum 1.
struct Routes {
    core::Matrix<std::int32_t> experts;  // [T, K]
    core::Matrix<float> weights;         // [T, K]

    /// Experts that at least one token chose.
    [[nodiscard]] index_t experts_in_use() const;
};

/// Names of the distributions: "uniform" deals all experts equally often in random order, "skewed" draws them with
/// popularity 1 / rank (Zipf), "hot" gives one expert to every token and deals the others.
[[nodiscard]] std::vector<std::string> routing_names();

/// `distribution` is one of `routing_names`.
[[nodiscard]] Routes make_routes(std::string_view distribution, index_t tokens, const LayerShape& shape,
                                 std::uint64_t seed);

}  // namespace moesaic::bench
