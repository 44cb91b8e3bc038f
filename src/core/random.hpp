// Counter-based random numbers: a value depends on seed, stream and index alone, so any rank or thread can compute it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace moesaic::core {

/// Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
class CounterRandom {
public:
    /// `stream` separates uses of one seed, for example one stream per tensor.
    CounterRandom(std::uint64_t seed, std::uint64_t stream) noexcept : seed_(seed), stream_(stream) {}

    [[nodiscard]] std::array<std::uint32_t, 4> block(std::uint64_t index) const noexcept;
    /// Uniform in [0, 1), 53 bits.
    [[nodiscard]] double uniform(std::uint64_t index) const noexcept;
    /// Uniform integer in [0, bound), bound > 0.
    [[nodiscard]] std::uint64_t below(std::uint64_t index, std::uint64_t bound) const noexcept;
    /// Standard normal (Box-Muller).
    [[nodiscard]] double normal(std::uint64_t index) const noexcept;
    /// The numbers from 0 to `count` - 1 in random order.
    [[nodiscard]] std::vector<std::int64_t> permutation(std::int64_t count) const;

private:
    std::uint64_t seed_;
    std::uint64_t stream_;
};

}  // namespace moesaic::core
