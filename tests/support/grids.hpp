// The process grids that tests go through.
#pragma once

#include "mpi/process_grid.hpp"

#include <optional>
#include <vector>

namespace moesaic::test {

/// All shapes with so many ranks.
inline std::vector<mpi::GridShape> grids_of(core::index_t ranks) {
    return mpi::grids_of({}, ranks);
}

/// Of a test that does not care which: all ranks share each expert, unless there is a shape.
inline mpi::GridShape shape_or_slices(const std::optional<mpi::GridShape>& shape, const mpi::Communicator& world) {
    return shape.value_or(mpi::GridShape{.tensor = world.size()});
}

}  // namespace moesaic::test
