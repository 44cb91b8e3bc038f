// What the watchdog says, and that it is silent as long as ranks make progress.
#include "mpi/watchdog.hpp"

#include "mpi/communicator.hpp"
#include "mpi/progress.hpp"
#include "mpi/start_limit.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::mpi {
namespace {

Heartbeat heartbeat(int rank, bool is_waiting, const char* call, std::int64_t step, double seconds) {
    Heartbeat result;
    result.rank = rank;
    result.is_waiting = is_waiting ? 1 : 0;
    result.step = step;
    result.unchanged_ms = static_cast<std::int64_t>(seconds * 1e3);
    std::snprintf(result.call, sizeof result.call, "%s", call);
    return result;
}

TEST(StartLimit, EndsAProcessThatWaitsForOthersInVain) {
    if (Communicator::world().size() > 1) {
        GTEST_SKIP() << "a rank can't be started twice";
    }
    const auto hang = [] {
        const StartLimit limit(0.1);
        std::this_thread::sleep_for(std::chrono::seconds(20));
    };
    EXPECT_EXIT(hang(), testing::ExitedWithCode(1), "not all ranks have started within 1 s");
    { const StartLimit passed(1); }
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // it is over
}

TEST(Watchdog, NamesTheRanksThatAreMissing) {
    const Heartbeat mine = heartbeat(0, true, "mpi.sum", 7, 600);
    const std::vector<Peer> peers = {
        {"node0", std::nullopt, 600},
        {"node0", heartbeat(1, true, "mpi.sum", 7, 599), 1},
        {"node1", heartbeat(2, false, "mpi.all_gather_rows", 7, 601), 2},
        {"node1", heartbeat(3, true, "mpi.sum", 6, 0), 605},
        {"node2", std::nullopt, 600},
    };
    EXPECT_EQ(describe_stall(mine, peers, 20),
              "no progress for 600 s in mpi.sum of step 7 (waiting for rank 2 on node1: computing for 601 s after "
              "mpi.all_gather_rows of step 7; rank 3 on node1: silent for 605 s, last in mpi.sum of step 6; rank 4 on "
              "node2: never heard of); see what became of those ranks, their hosts and the network, or raise "
              "output.watchdog");
}

TEST(Watchdog, SaysSoIfAllWait) {
    const std::vector<Peer> peers = {{"a", heartbeat(0, true, "mpi.barrier", 0, 9), 0}, {"b", std::nullopt, 9}};
    EXPECT_EQ(describe_stall(heartbeat(1, true, "mpi.sum", 3, 9), peers, 2),
              "no progress for 9 s in mpi.sum of step 3 (waiting for a message: all ranks wait, rank 0 on a is in "
              "mpi.barrier); see what became of the network, or raise output.watchdog");
}

TEST(Watchdog, ListsAFewOfManyRanks) {
    const std::vector<Peer> peers(100, Peer{"host", std::nullopt, 9});
    const std::string text = describe_stall(heartbeat(0, true, "mpi.sum", 1, 9), peers, 2);
    EXPECT_NE(text.find("rank 8 on host"), std::string::npos) << text;
    EXPECT_EQ(text.find("rank 9 on host"), std::string::npos) << text;
    EXPECT_NE(text.find("and 91 more"), std::string::npos) << text;
}

TEST(Watchdog, LetsRanksWaitThatMakeProgress) {
    const Communicator world = Communicator::world();
    const Watchdog watchdog(world, 0.5);
    for (int i = 0; i < 6; ++i) {  // each shorter than the limit, together longer
        if (world.rank() == i % world.size()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(150));
        }
        world.barrier();
    }
}

TEST(Progress, CollectivesOfSeveralPartsCountOnce) {
    Progress progress;
    progress.enter("outer");
    progress.enter("inner");
    EXPECT_STREQ(progress.call(), "outer");
    progress.leave();
    EXPECT_TRUE(progress.is_waiting());
    progress.leave();
    EXPECT_FALSE(progress.is_waiting());
    EXPECT_EQ(progress.count(), 1);
    EXPECT_GE(progress.waited_ns(), 0);
}

TEST(Progress, IsSharedByTheGroupsOfAWorld) {
    const Communicator world = Communicator::world();
    const Communicator part = world.split(world.rank() % 2, world.rank());
    EXPECT_EQ(&part.progress(), &world.progress());
}

}  // namespace
}  // namespace moesaic::mpi
