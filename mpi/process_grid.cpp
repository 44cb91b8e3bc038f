#include "mpi/process_grid.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/options.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::mpi {
namespace {

std::string size_or_auto(index_t size) {
    return size == 0 ? "auto" : fmt::format("{}", size);
}

[[noreturn]] void fail_to_fit(const GridSettings& wanted, index_t ranks) {
    core::fail(core::ExitCode::usage,
               "parallel.data x parallel.expert x parallel.tensor = {} x {} x {} does not fit {} (the product must be "
               "the number of ranks); change them, or leave them at auto",
               size_or_auto(wanted.data), size_or_auto(wanted.expert), size_or_auto(wanted.tensor),
               core::counted(ranks, "rank"));
}

}  // namespace

std::string describe(const GridShape& shape) {
    return fmt::format("data {} x expert {} x tensor {}", shape.data, shape.expert, shape.tensor);
}

void GridSettings::declare(core::OptionSet& set) {
    set.add_auto("parallel.tensor", tensor, most_ranks,
                 "ranks that share each expert's intermediate dimension; auto: of all grids the fastest one that fits");
    set.add_auto("parallel.expert", expert, most_ranks,
                 "groups of ranks that hold different experts; auto: as parallel.tensor");
    set.add_auto("parallel.data", data, most_ranks, "replicas of all experts; auto: as parallel.tensor");
}

index_t GridSettings::least_ranks() const noexcept {
    return std::max(data, index_t{1}) * std::max(expert, index_t{1}) * std::max(tensor, index_t{1});
}

std::vector<GridShape> grids_of(const GridSettings& wanted, index_t ranks) {
    std::vector<GridShape> grids;
    const auto is_wanted = [](index_t size, index_t wanted_size) { return wanted_size == 0 || size == wanted_size; };
    for (index_t data = 1; data <= ranks; ++data) {
        if (ranks % data != 0 || !is_wanted(data, wanted.data)) {
            continue;
        }
        const index_t of_replica = ranks / data;
        for (index_t expert = 1; expert <= of_replica; ++expert) {
            const index_t tensor = of_replica / expert;
            if (of_replica % expert == 0 && is_wanted(expert, wanted.expert) && is_wanted(tensor, wanted.tensor)) {
                grids.push_back({data, expert, tensor});
            }
        }
    }
    if (grids.empty()) {
        fail_to_fit(wanted, ranks);
    }
    return grids;
}

ProcessGrid::ProcessGrid(const Communicator& world, const GridShape& shape)
    : shape_(shape),
      world_(world),
      data_(world),
      expert_(world),
      tensor_(world),
      replica_(world),
      same_experts_(world) {
    world.agree([&] {
        if (shape.ranks() != world.size()) {
            fail_to_fit({shape.data, shape.expert, shape.tensor}, world.size());
        }
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
