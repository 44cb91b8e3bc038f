// How the rows of all experts are cut into pieces of work.
#pragma once

#include "ops/blocks.hpp"
#include "ops/routed_rows.hpp"

#include <vector>

namespace moesaic::ops {

/// Reading an expert's weights takes as long as computing with about this many rows.
inline constexpr index_t rows_worth_reading = 64;

/// Most strips of 32 rows that are worked on together.
inline constexpr index_t most_strips_of_chunk = 8;

/// Rows of one expert that are worked on together, as many as stay in the L2 cache.
struct RowChunk {
    index_t expert;
    index_t begin;  ///< first routed row
    index_t rows;
    index_t first_strip;  ///< number of the first strip of 32 rows, counted over all chunks

    [[nodiscard]] index_t strips() const { return blocks_of(rows); }
};

/// Chunks of at most `largest` rows (a multiple of 32), equal for each expert. They depend on the routing alone, so
/// that results don't depend on the number of threads.
[[nodiscard]] std::vector<RowChunk> make_chunks(const RoutedRows& routed, index_t largest);

/// Part of the work on a chunk: the strips [first, last) of output features.
struct WorkItem {
    index_t chunk;
    index_t first;
    index_t last;
    double work;
};

/// Items for `threads` threads, largest first: whole chunks where there are many, else parts of them, so that one hot
/// expert keeps all threads busy. `strips`: those of the output features.
[[nodiscard]] std::vector<WorkItem> make_items(const std::vector<RowChunk>& chunks, index_t strips, int threads);

}  // namespace moesaic::ops
