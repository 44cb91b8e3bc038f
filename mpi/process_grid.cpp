#include "mpi/process_grid.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace moesaic::mpi {
namespace {

/// Ranks per node if that number is the same everywhere and nodes hold consecutive ranks; otherwise 1.
index_t ranks_per_node(const Communicator& world) {
    const Communicator node = world.split_by_node();
    const index_t smallest = world.min(static_cast<index_t>(node.size()));
    const index_t largest = world.max(static_cast<index_t>(node.size()));
    const bool consecutive = world.rank() % node.size() == node.rank();
    return world.min(static_cast<index_t>(consecutive ? 1 : 0)) == 1 && smallest == largest ? smallest : 1;
}

}  // namespace

void GridShape::declare(core::OptionSet& set) {
    set.add_auto("parallel.tensor", tensor, most_ranks,
                 "ranks that share each expert's intermediate dimension; auto: ranks per node");
    set.add("parallel.expert", expert, "groups of ranks that hold different experts",
            core::integer_within(1, most_ranks));
    set.add_auto("parallel.data", data, most_ranks, "replicas of all experts; auto: all remaining ranks");
}

GridShape complete(GridShape wanted, index_t ranks, index_t node_ranks) {
    if (wanted.tensor == 0) {
        const index_t groups = wanted.data * wanted.expert;
        wanted.tensor =
            groups > 0 && ranks % groups == 0 ? ranks / groups : std::gcd(node_ranks, ranks / wanted.expert);
    }
    if (wanted.data == 0) {
        wanted.data = std::max(ranks / (wanted.expert * wanted.tensor), index_t{1});
    }
    return wanted;
}

std::string describe(const GridShape& shape) {
    return fmt::format("data {} x expert {} x tensor {}", shape.data, shape.expert, shape.tensor);
}

ProcessGrid::ProcessGrid(const Communicator& world, const GridShape& wanted)
    : shape_(complete(wanted, world.size(), ranks_per_node(world))),
      world_(world),
      data_(world),
      expert_(world),
      tensor_(world),
      replica_(world),
      same_experts_(world) {
    world.agree([&] {
        core::require(shape_.ranks() == world.size(), core::ExitCode::usage,
                      "parallel.data x parallel.expert x parallel.tensor = {} x {} x {} does not fit {} (the "
                      "product must be the number of ranks); change them, or leave data and tensor at auto",
                      shape_.data, shape_.expert, shape_.tensor, core::counted(world.size(), "rank"));
    });
    const int rank = world.rank();
    const auto tensor = static_cast<int>(shape_.tensor);
    const auto replica = static_cast<int>(shape_.expert) * tensor;
    const int in_tensor = rank % tensor;
    const int in_replica = rank % replica;
    const int in_expert = in_replica / tensor;
    tensor_ = world.split(rank / tensor, rank);
    expert_ = world.split(rank / replica * tensor + in_tensor, rank);
    data_ = world.split(in_replica, rank);
    replica_ = world.split(rank / replica, rank);
    same_experts_ = world.split(in_expert, rank);
    const bool is_split = replica_.split_by_node().size() < replica_.size();
    replicas_span_hosts_ = world.max(static_cast<index_t>(is_split ? 1 : 0)) == 1;
}

}  // namespace moesaic::mpi
