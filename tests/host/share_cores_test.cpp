#include "host/share_cores.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace moesaic::host {
namespace {

using CoreList = std::vector<int>;

std::vector<Core> machine(int nodes, int cores_per_node) {
    std::vector<Core> cores;
    cores.reserve(static_cast<std::size_t>(nodes) * static_cast<std::size_t>(cores_per_node));
    for (int core = 0; core < nodes * cores_per_node; ++core) {
        cores.push_back({core / cores_per_node, {core}});
    }
    return cores;
}

CoreList range(int begin, int end) {
    CoreList cores(static_cast<std::size_t>(end - begin));
    std::iota(cores.begin(), cores.end(), begin);
    return cores;
}

/// Shares of all ranks.
std::vector<CoreList> shares(const std::vector<Core>& cores, const std::vector<CoreList>& usable,
                             bool exclusive = true) {
    std::vector<CoreList> lists;
    for (int rank = 0; rank < static_cast<int>(usable.size()); ++rank) {
        const CoreShare share = share_cores(cores, usable, rank);
        EXPECT_EQ(share.is_exclusive, exclusive) << "rank " << rank;
        lists.push_back(share.cores);
    }
    return lists;
}

std::vector<CoreList> unbound_shares(int nodes, int cores_per_node, std::size_t ranks) {
    return shares(machine(nodes, cores_per_node), std::vector<CoreList>(ranks, range(0, nodes * cores_per_node)));
}

using Lists = std::vector<CoreList>;

TEST(ShareCores, OneRankHasAll) {
    EXPECT_EQ(unbound_shares(2, 4, 1), (Lists{range(0, 8)}));
}

TEST(ShareCores, WholeNumaNodes) {
    EXPECT_EQ(unbound_shares(2, 4, 2), (Lists{range(0, 4), range(4, 8)}));
    EXPECT_EQ(unbound_shares(4, 3, 2), (Lists{range(0, 6), range(6, 12)}));
    // A node of which some cores are reserved is not filled up from its neighbour.
    EXPECT_EQ(shares(machine(2, 4), Lists(2, range(1, 8))), (Lists{range(1, 4), range(4, 8)}));
    EXPECT_EQ(shares(machine(4, 3), Lists(2, range(2, 12))), (Lists{range(2, 6), range(6, 12)}));
}

TEST(ShareCores, EqualPartsOfNumaNodes) {
    EXPECT_EQ(unbound_shares(2, 4, 4), (Lists{range(0, 2), range(2, 4), range(4, 6), range(6, 8)}));
    EXPECT_EQ(unbound_shares(2, 5, 4), (Lists{range(0, 2), range(2, 5), range(5, 7), range(7, 10)}));
    EXPECT_EQ(shares(machine(2, 4), Lists(4, range(2, 8))), (Lists{{2}, {3}, range(4, 6), range(6, 8)}));
}

TEST(ShareCores, ContiguousCoresWhereNumaNodesDoNotDivide) {
    EXPECT_EQ(unbound_shares(2, 6, 3), (Lists{range(0, 4), range(4, 8), range(8, 12)}));
    EXPECT_EQ(unbound_shares(4, 2, 3), (Lists{range(0, 2), range(2, 5), range(5, 8)}));
}

TEST(ShareCores, AsManyRanksAsCores) {
    EXPECT_EQ(unbound_shares(1, 3, 3), (Lists{{0}, {1}, {2}}));
    // One usable core on the first node and three on the second: equal parts of nodes would leave a rank without.
    EXPECT_EQ(shares(machine(2, 4), Lists(4, CoreList{3, 4, 5, 6})), (Lists{{3}, {4}, {5}, {6}}));
}

TEST(ShareCores, MoreRanksThanCoresTakeTurns) {
    EXPECT_EQ(shares(machine(1, 2), Lists(5, range(0, 2)), false), (Lists{{0}, {1}, {0}, {1}, {0}}));
}

TEST(ShareCores, BindingOfTheLauncherStays) {
    EXPECT_EQ(shares(machine(2, 4), {range(4, 8), range(0, 4)}), (Lists{range(4, 8), range(0, 4)}));
    EXPECT_EQ(shares(machine(2, 4), {{1}, {6}}), (Lists{{1}, {6}}));
}

TEST(ShareCores, RanksBoundToTheSameSocketDivideIt) {
    EXPECT_EQ(shares(machine(2, 4), {range(0, 4), range(4, 8), range(0, 4), range(4, 8)}),
              (Lists{range(0, 2), range(4, 6), range(2, 4), range(6, 8)}));
}

TEST(ShareCores, RanksThatOverlapInPartDivideAll) {
    EXPECT_EQ(shares(machine(1, 8), {range(0, 5), range(3, 6)}), (Lists{range(0, 3), range(3, 6)}));
}

}  // namespace
}  // namespace moesaic::host
