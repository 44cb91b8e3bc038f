// Sizes of transfers: MPI counts are int, so that long transfers go in pieces and row blocks are counted in rows.
#pragma once

#include "core/matrix.hpp"

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace moesaic::mpi {

/// Longest single transfer in bytes; small enough for MPI libraries that keep byte counts in an int.
inline constexpr std::size_t largest_piece = std::size_t{1} << 30U;

/// Calls `transfer(offset, length)` for consecutive pieces of at most `piece` bytes that cover [0, bytes).
void for_each_piece(std::size_t bytes, std::size_t piece,
                    const std::function<void(std::size_t offset, std::size_t length)>& transfer);

/// Counts and displacements of a v-collective, one per rank.
struct Blocks {
    std::vector<int> counts;
    std::vector<int> offsets;
};

/// Blocks of counts[r] * `scale` elements. Throws if their sum exceeds an int; `operation` names the collective.
[[nodiscard]] Blocks make_blocks(std::span<const core::index_t> counts, core::index_t scale, const char* operation);

}  // namespace moesaic::mpi
