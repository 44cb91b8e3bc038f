// Who belongs to whom in the grid data x expert x tensor.
#include "mpi/process_grid.hpp"

#include "core/error.hpp"
#include "core/slice.hpp"
#include "support/grids.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace moesaic::mpi {
namespace {

TEST(GridShape, WantedSizesConstrainTheGrids) {
    using Grids = std::vector<GridShape>;
    EXPECT_EQ(grids_of({}, 1), (Grids{{1, 1, 1}}));
    EXPECT_EQ(grids_of({}, 4), (Grids{{1, 1, 4}, {1, 2, 2}, {1, 4, 1}, {2, 1, 2}, {2, 2, 1}, {4, 1, 1}}));
    EXPECT_EQ(grids_of({.expert = 2}, 4), (Grids{{1, 2, 2}, {2, 2, 1}}));
    EXPECT_EQ(grids_of({.data = 3}, 9), (Grids{{3, 1, 3}, {3, 3, 1}}));
    EXPECT_EQ(grids_of({.data = 1, .expert = 4}, 8), (Grids{{1, 4, 2}}));
    EXPECT_EQ(grids_of({.data = 2, .expert = 2, .tensor = 2}, 8), (Grids{{2, 2, 2}}));
    EXPECT_EQ((GridSettings{.data = 3, .tensor = 2}.least_ranks()), 6);
    EXPECT_EQ(describe(GridShape{3, 1, 4}), "data 3 x expert 1 x tensor 4");
    for (const GridSettings& wanted : {GridSettings{.expert = 3}, {.data = 3}, {.data = 2, .expert = 2, .tensor = 2}}) {
        try {
            static_cast<void>(grids_of(wanted, 4));
            ADD_FAILURE();
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::usage);
        }
    }
    try {
        static_cast<void>(grids_of({.tensor = 3}, 4));
        ADD_FAILURE();
    } catch (const core::Error& error) {
        EXPECT_NE(std::string(error.what()).find("tensor = auto x auto x 3 does not fit 4 ranks"), std::string::npos)
            << error.what();
    }
}

TEST(SliceOf, PartsCoverTheWholeAndDifferByOneAtMost) {
    for (const index_t parts : {1, 2, 3, 5}) {
        index_t next = 0;
        for (index_t i = 0; i < parts; ++i) {
            const core::Slice slice = core::slice_of(5, i, parts);
            EXPECT_EQ(slice.begin, next);
            EXPECT_GE(slice.extent, 5 / parts);
            EXPECT_LE(slice.extent, (5 + parts - 1) / parts);
            EXPECT_FALSE(slice.contains(slice.begin - 1));
            EXPECT_TRUE(slice.contains(slice.end() - 1));
            EXPECT_FALSE(slice.contains(slice.end()));
            next = slice.end();
        }
        EXPECT_EQ(next, 5);
    }
}

/// The ranks of a group, as its members tell each other.
std::vector<index_t> members(const Communicator& group, int rank) {
    return group.all_gather(static_cast<index_t>(rank));
}

TEST(ProcessGrid, TensorVariesFastestThenExpertThenData) {
    const Communicator world = Communicator::world();
    const index_t rank = world.rank();
    for (const GridShape& shape : test::grids_of(world.size())) {
        SCOPED_TRACE(describe(shape));
        const ProcessGrid grid(world, shape);
        EXPECT_EQ(grid.shape(), shape);
        const index_t tensor = rank % shape.tensor;
        const index_t expert = rank / shape.tensor % shape.expert;
        const index_t data = rank / shape.tensor / shape.expert;
        std::vector<index_t> of_tensor;
        std::vector<index_t> of_expert;
        std::vector<index_t> of_data;
        std::vector<index_t> of_replica;
        std::vector<index_t> of_same_experts;
        for (index_t d = 0; d < shape.data; ++d) {
            for (index_t e = 0; e < shape.expert; ++e) {
                for (index_t t = 0; t < shape.tensor; ++t) {
                    const index_t other = (d * shape.expert + e) * shape.tensor + t;
                    const auto add_if = [other](std::vector<index_t>& list, bool belongs) {
                        list.insert(list.end(), belongs ? 1 : 0, other);
                    };
                    add_if(of_tensor, d == data && e == expert);
                    add_if(of_expert, d == data && t == tensor);
                    add_if(of_data, e == expert && t == tensor);
                    add_if(of_replica, d == data);
                    add_if(of_same_experts, e == expert);
                }
            }
        }
        EXPECT_EQ(members(grid.tensor(), world.rank()), of_tensor);
        EXPECT_EQ(members(grid.expert(), world.rank()), of_expert);
        EXPECT_EQ(members(grid.data(), world.rank()), of_data);
        EXPECT_EQ(members(grid.replica(), world.rank()), of_replica);
        EXPECT_EQ(members(grid.same_experts(), world.rank()), of_same_experts);
    }
}

TEST(ProcessGrid, ShapesThatDoNotFitAreRefused) {
    const Communicator world = Communicator::world();
    const index_t ranks = world.size();
    constexpr index_t huge = index_t{1} << 31U;
    for (const GridShape& shape : {GridShape{ranks, 2, 1}, {2 * ranks, 1, 1}, {1, 1, 2 * ranks}, {1, huge, huge}}) {
        try {
            const ProcessGrid grid(world, shape);
            ADD_FAILURE() << describe(shape);
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::usage);
            EXPECT_NE(std::string(error.what()).find("parallel.data x parallel.expert x parallel.tensor"),
                      std::string::npos)
                << error.what();
        }
    }
}

}  // namespace
}  // namespace moesaic::mpi
