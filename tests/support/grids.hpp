// The process grids that tests go through.
#pragma once

#include "mpi/process_grid.hpp"

#include <vector>

namespace moesaic::test {

/// All shapes with so many ranks.
inline std::vector<mpi::GridShape> grids_of(core::index_t ranks) {
    std::vector<mpi::GridShape> shapes;
    for (core::index_t data = 1; data <= ranks; ++data) {
        for (core::index_t expert = 1; data * expert <= ranks; ++expert) {
            if (ranks % (data * expert) == 0) {
                shapes.push_back({data, expert, ranks / (data * expert)});
            }
        }
    }
    return shapes;
}

}  // namespace moesaic::test
