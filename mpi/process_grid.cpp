#include "mpi/process_grid.hpp"

#include "core/error.hpp"

#include <algorithm>

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

Slice slice_of(index_t size, index_t index, index_t parts) {
    const index_t begin = size * index / parts;
    return {begin, size * (index + 1) / parts - begin};
}

ProcessGrid::ProcessGrid(const Communicator& world, index_t tensor, index_t data)
    : world_(world), tensor_(world), data_(world) {
    const index_t ranks = world.size();
    if (tensor == 0) {
        tensor = data > 0 && ranks % data == 0 ? ranks / data : ranks_per_node(world);
    }
    if (data == 0) {
        data = std::max(ranks / tensor, index_t{1});
    }
    world.agree([&] {
        core::require(data * tensor == ranks, core::ExitCode::usage,
                      "parallel.data x parallel.tensor = {} x {} does not fit {} ranks (the product must be the number "
                      "of ranks); change them, or leave them at auto",
                      data, tensor, ranks);
    });
    const auto index_in_group = static_cast<int>(world.rank() % tensor);
    const auto group = static_cast<int>(world.rank() / tensor);
    tensor_ = world.split(group, index_in_group);
    data_ = world.split(index_in_group, group);
}

}  // namespace moesaic::mpi
