// The process grids that tests go through.
#pragma once

#include "mpi/process_grid.hpp"

#include <vector>

namespace moesaic::test {

/// All shapes with so many ranks.
inline std::vector<mpi::GridShape> grids_of(core::index_t ranks) {
    return mpi::grids_of({}, ranks);
}

}  // namespace moesaic::test
