// The process grid data x tensor: which ranks share the experts' slices, and which hold the same slice.
#pragma once

#include "core/matrix.hpp"
#include "mpi/communicator.hpp"

namespace moesaic::mpi {

/// A contiguous part of a dimension.
struct Slice {
    index_t begin = 0;
    index_t extent = 0;
};

/// Part `index` of `parts` nearly equal parts of [0, size).
[[nodiscard]] Slice slice_of(index_t size, index_t index, index_t parts);

/// World = data x tensor. Consecutive ranks form a tensor group, whose ranks hold different slices of the experts'
/// intermediate dimension; ranks at the same place of different tensor groups form a data group and hold the same
/// slice.
class ProcessGrid {
public:
    /// Collective. `tensor` and `data` are sizes, 0 for automatic: tensor = ranks per node, data = the rest. Throws a
    /// usage error on all ranks if their product is not the number of ranks.
    ProcessGrid(const Communicator& world, index_t tensor, index_t data);

    [[nodiscard]] const Communicator& world() const noexcept { return world_; }
    [[nodiscard]] const Communicator& tensor() const noexcept { return tensor_; }
    [[nodiscard]] const Communicator& data() const noexcept { return data_; }

private:
    Communicator world_;
    Communicator tensor_;
    Communicator data_;
};

}  // namespace moesaic::mpi
