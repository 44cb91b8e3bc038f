// Which experts the tokens of a benchmark choose.
#pragma once

#include "bench/shapes.hpp"

#include <array>
#include <cstdint>
#include <string_view>

namespace moesaic::bench {

/// Chosen experts and their weights, as a router gives them: K different experts per token, positive weights of sum 1.
struct Routes {
    core::Matrix<std::int32_t> experts;  // [T, K]
    core::Matrix<float> weights;         // [T, K]

    /// Experts that at least one token chose.
    [[nodiscard]] index_t experts_in_use() const;
};

/// How often experts are chosen.
enum class Routing : std::uint8_t {
    uniform,  ///< all are dealt equally often in random order
    skewed,   ///< they are drawn with popularity 1 / rank (Zipf)
    hot,      ///< one is given to every token, and the others are dealt
};
constexpr auto names_of(Routing) {
    return std::to_array<std::string_view>({"uniform", "skewed", "hot"});
}

[[nodiscard]] Routes make_routes(Routing routing, index_t tokens, const LayerShape& shape, std::uint64_t seed);

}  // namespace moesaic::bench
