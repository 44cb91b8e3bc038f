// What fits on how many ranks: a table for those who choose machines.
#pragma once

#include "train/pass_size.hpp"

#include <string>
#include <vector>

namespace moesaic::train {

/// Sequences of a rank in a pass, for every format of experts, with and without recomputing, and several grids.
struct FitTable {
    struct Row {
        ops::WeightChoice weights;
        ops::Activations activations;
        std::vector<index_t> sequences;  ///< for each grid the most that fit, up to `most_sequences`; 0: not even one
    };
    static constexpr index_t most_sequences = 1024;

    std::vector<mpi::GridShape> grids;
    std::vector<Row> rows;
};

/// 1, 2, 4 and 8 groups that share the experts, as far as there are enough of these, each a tensor group as in `grid`.
[[nodiscard]] std::vector<mpi::GridShape> grids_to_compare(const mpi::GridShape& grid, index_t experts);

/// `plan` is asked for passes of so many sequences per rank, however many an optimizer step has. More of them need more
/// memory, and a rank has `bytes`.
[[nodiscard]] FitTable what_fits(const PlanOfPasses& plan, const std::vector<mpi::GridShape>& grids, double bytes);

/// The table as lines, '-' where nothing fits.
[[nodiscard]] std::string describe(const FitTable& table);

}  // namespace moesaic::train
