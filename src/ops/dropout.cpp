#include "ops/dropout.hpp"

#include <xxhash.h>

#include <array>
#include <cmath>

namespace moesaic::ops {
namespace {

/// 16 random bits decide on one feature, so that a block of random numbers serves 8 of them.
constexpr double resolution = 65536;
constexpr index_t features_of_block = 8;

}  // namespace

DropoutMask::DropoutMask(const Dropout& dropout, std::uint64_t module) noexcept
    : threshold_(static_cast<std::uint32_t>(std::lround(dropout.probability * resolution))),
      scale_(resolution / (resolution - threshold_)) {
    const std::array<std::uint64_t, 3> identity = {dropout.seed, static_cast<std::uint64_t>(dropout.step), module};
    key_ = XXH3_64bits(identity.data(), sizeof(identity));
}

std::uint32_t DropoutMask::kept(std::uint64_t token, index_t first) const noexcept {
    const core::CounterRandom random(key_, token);
    const index_t skipped = first % features_of_block;
    std::uint64_t bits = 0;  // from feature first - skipped on
    for (index_t begin = 0; begin < skipped + features; begin += features_of_block) {
        const auto words = random.block(static_cast<std::uint64_t>((first - skipped + begin) / features_of_block));
        for (unsigned i = 0; i < features_of_block; ++i) {
            const std::uint32_t draw = words[i / 2] >> (16 * (i % 2)) & 0xFFFFU;
            bits |= std::uint64_t{draw >= threshold_} << (static_cast<unsigned>(begin) + i);
        }
    }
    return static_cast<std::uint32_t>(bits >> static_cast<unsigned>(skipped));
}

std::uint64_t dropout_module(std::string_view name) noexcept {
    return XXH3_64bits(name.data(), name.size());
}

}  // namespace moesaic::ops
