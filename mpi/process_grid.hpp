// The process grid data x expert x tensor: which ranks hold which experts, and which slices of them.
#pragma once

#include "core/matrix.hpp"
#include "mpi/communicator.hpp"

#include <string>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::mpi {

/// Bound of a grid's sizes, far above what any machine has: products of them stay in range.
inline constexpr index_t most_ranks = 1 << 20;

/// Sizes of the grid's dimensions.
struct GridShape {
    index_t data = 1;
    index_t expert = 1;
    index_t tensor = 1;

    [[nodiscard]] index_t ranks() const noexcept { return data * expert * tensor; }
    friend bool operator==(const GridShape&, const GridShape&) = default;
};

/// As messages show it: "data 2 x expert 1 x tensor 4".
[[nodiscard]] std::string describe(const GridShape& shape);

/// Sizes as the user wants them; 0: the program chooses.
struct GridSettings {
    index_t data = 0;
    index_t expert = 0;
    index_t tensor = 0;

    void declare(core::OptionSet& set);
    /// The least number of ranks of such a grid.
    [[nodiscard]] index_t least_ranks() const noexcept;
};

/// All grids of so many ranks with the sizes that are wanted, by ascending sizes of data, then expert. Throws a usage
/// error if there is none.
[[nodiscard]] std::vector<GridShape> grids_of(const GridSettings& wanted, index_t ranks);

/// World = data x expert x tensor, the last one varying fastest. Consecutive ranks form a tensor group, whose ranks
/// hold different slices of the intermediate dimension of the same experts. Consecutive tensor groups hold different
/// experts and form a replica. Replicas hold the same.
class ProcessGrid {
public:
    /// Collective. Throws a usage error on all ranks if the product of the sizes is not the number of ranks.
    ProcessGrid(const Communicator& world, const GridShape& shape);

    [[nodiscard]] const GridShape& shape() const noexcept { return shape_; }
    [[nodiscard]] const Communicator& world() const noexcept { return world_; }

    /// The ranks that differ from this one in a single dimension.
    [[nodiscard]] const Communicator& data() const noexcept { return data_; }
    [[nodiscard]] const Communicator& expert() const noexcept { return expert_; }
    [[nodiscard]] const Communicator& tensor() const noexcept { return tensor_; }

    /// The tensor groups that together hold all experts: rank = expert position * tensor size + tensor position.
    [[nodiscard]] const Communicator& replica() const noexcept { return replica_; }
    /// The ranks of all replicas that hold slices of the same experts.
    [[nodiscard]] const Communicator& same_experts() const noexcept { return same_experts_; }
    /// Whether rows travel between hosts: some replica's ranks do not share memory. The same on all ranks.
    [[nodiscard]] bool replicas_span_hosts() const noexcept { return replicas_span_hosts_; }

private:
    GridShape shape_;
    Communicator world_;
    Communicator data_;
    Communicator expert_;
    Communicator tensor_;
    Communicator replica_;
    Communicator same_experts_;
    bool replicas_span_hosts_ = false;
};

}  // namespace moesaic::mpi
