#include "core/random.hpp"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace moesaic::core {

std::array<std::uint32_t, 4> CounterRandom::block(std::uint64_t index) const noexcept {
    constexpr std::uint64_t multiplier_0 = 0xD2511F53;
    constexpr std::uint64_t multiplier_1 = 0xCD9E8D57;
    constexpr std::uint32_t weyl_0 = 0x9E3779B9;
    constexpr std::uint32_t weyl_1 = 0xBB67AE85;
    std::array<std::uint32_t, 4> counter = {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32U),
                                            static_cast<std::uint32_t>(stream_),
                                            static_cast<std::uint32_t>(stream_ >> 32U)};
    auto key_0 = static_cast<std::uint32_t>(seed_);
    auto key_1 = static_cast<std::uint32_t>(seed_ >> 32U);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product_0 = multiplier_0 * counter[0];
        const std::uint64_t product_1 = multiplier_1 * counter[2];
        counter = {
            static_cast<std::uint32_t>(product_1 >> 32U) ^ counter[1] ^ key_0, static_cast<std::uint32_t>(product_1),
            static_cast<std::uint32_t>(product_0 >> 32U) ^ counter[3] ^ key_1, static_cast<std::uint32_t>(product_0)};
        key_0 += weyl_0;
        key_1 += weyl_1;
    }
    return counter;
}

double CounterRandom::uniform(std::uint64_t index) const noexcept {
    const auto words = block(index);
    const std::uint64_t bits = (std::uint64_t{words[0]} << 32U | words[1]) >> 11U;
    return static_cast<double>(bits) * 0x1p-53;
}

std::uint64_t CounterRandom::below(std::uint64_t index, std::uint64_t bound) const noexcept {
    const auto words = block(index);
    const std::uint64_t bits = std::uint64_t{words[0]} << 32U | words[1];
    __extension__ using uint128 = unsigned __int128;
    return static_cast<std::uint64_t>(uint128{bits} * bound >> 64U);
}

double CounterRandom::normal(std::uint64_t index) const noexcept {
    const auto words = block(index);
    const double radius_uniform =
        (static_cast<double>(words[0]) + 1.0) * 0x1p-32;  // in (0, 1]: its logarithm is finite
    const double angle_uniform = static_cast<double>(words[1]) * 0x1p-32;
    return std::sqrt(-2.0 * std::log(radius_uniform)) * std::cos(2.0 * std::numbers::pi * angle_uniform);
}

std::vector<std::int64_t> CounterRandom::permutation(std::int64_t count) const {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    for (std::size_t i = order.size(); i > 1; --i) {  // Fisher-Yates
        std::swap(order[i - 1], order[static_cast<std::size_t>(below(i, i))]);
    }
    return order;
}

}  // namespace moesaic::core
