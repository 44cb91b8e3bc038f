#include "mpi/transfer_sizes.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <limits>

namespace moesaic::mpi {

using core::ExitCode;
using core::index_t;

void for_each_piece(std::size_t bytes, std::size_t piece,
                    const std::function<void(std::size_t offset, std::size_t length)>& transfer) {
    for (std::size_t offset = 0; offset < bytes; offset += piece) {
        transfer(offset, std::min(piece, bytes - offset));
    }
}

Blocks make_blocks(std::span<const index_t> counts, index_t scale, const char* operation) {
    constexpr index_t largest = std::numeric_limits<int>::max();
    Blocks blocks;
    blocks.counts.reserve(counts.size());
    blocks.offsets.reserve(counts.size());
    index_t total = 0;
    for (const index_t count : counts) {
        core::require(count >= 0, ExitCode::runtime_failure,
                      "{}: a rank announced {} rows (negative); this is a defect of the caller", operation, count);
        core::require(count <= (largest - total) / scale, ExitCode::runtime_failure,
                      "{}: the rows of all ranks are too many for one call (more than {} units of transfer); use fewer "
                      "tokens per micro-batch",
                      operation, largest);
        blocks.counts.push_back(static_cast<int>(count * scale));
        blocks.offsets.push_back(static_cast<int>(total));
        total += count * scale;
    }
    return blocks;
}

}  // namespace moesaic::mpi
