// Placement of the ranks on this host, or on an emulated one if HWLOC_SYNTHETIC says so (tests/mpi/CMakeLists.txt).
#include "mpi/place.hpp"

#include "core/error.hpp"
#include "host/placement_report.hpp"
#include "mpi/communicator.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::mpi {
namespace {

bool is_emulated() {
    return std::getenv("HWLOC_SYNTHETIC") != nullptr;
}

/// Collective. How many ranks use each core, on rank 0; empty elsewhere.
std::vector<int> users_of_cores(const Communicator& world, const host::Placement& placement) {
    std::vector<int> users;
    for (const std::string& text : world.gather(fmt::format("{}", fmt::join(placement.cores, " ")))) {
        std::istringstream numbers(text);
        for (auto core = std::istream_iterator<std::size_t>(numbers); core != std::istream_iterator<std::size_t>();
             ++core) {
            users.resize(std::max(users.size(), *core + 1));
            ++users[*core];
        }
    }
    return users;
}

std::set<int> affinity_of_this_thread() {
    cpu_set_t set;
    CPU_ZERO(&set);
    EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    std::set<int> units;
    for (std::size_t unit = 0; unit < CPU_SETSIZE; ++unit) {
        if (CPU_ISSET(unit, &set)) {
            units.insert(static_cast<int>(unit));
        }
    }
    return units;
}

/// Runs `work` on a fresh thread, so that its binding and its OpenMP team end with it.
template <class Work>
void on_own_thread(const Work& work) {
    std::thread(work).join();
}

TEST(Placement, SaysWhereTheRankIs) {
    const Communicator world = Communicator::world();
    const host::Placement placement = place(world);
    EXPECT_FALSE(placement.host.empty());
    EXPECT_EQ(placement.rank, world.rank());
    EXPECT_EQ(placement.node_rank, world.rank());
    EXPECT_EQ(placement.node_ranks, world.size());
    EXPECT_FALSE(placement.numa_nodes.empty());
    EXPECT_GT(placement.memory_available_bytes, 0U);
    EXPECT_LE(placement.memory_available_bytes, placement.memory_bytes);
}

TEST(Placement, CoresAreDisjointUnlessThereAreTooFew) {
    const Communicator world = Communicator::world();
    const host::Placement placement = place(world);
    ASSERT_FALSE(placement.cores.empty());
    EXPECT_TRUE(std::is_sorted(placement.cores.begin(), placement.cores.end()));
    EXPECT_EQ(placement.processing_units.size(), placement.cores.size());
    EXPECT_GE(placement.threads, 1);
    EXPECT_LE(placement.threads, static_cast<int>(placement.cores.size()));
    const std::vector<int> users = users_of_cores(world, placement);
    if (world.is_root()) {
        const int uses = std::accumulate(users.begin(), users.end(), 0);
        const int used = static_cast<int>(std::count_if(users.begin(), users.end(), [](int n) { return n > 0; }));
        if (used >= world.size()) {
            EXPECT_EQ(uses, used) << "a core has several ranks";
        } else {
            EXPECT_EQ(uses, world.size()) << "ranks that share cores use one each";
            EXPECT_TRUE(placement.cores_shared);
        }
    }
}

TEST(Placement, TakesTheNumberOfThreadsAsGiven) {
    const Communicator world = Communicator::world();
    EXPECT_EQ(place(world, {.threads = 3}).threads, 3);
    try {
        static_cast<void>(place(world, {.threads = -1}));
        ADD_FAILURE() << "accepted";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
    }
}

/// A rank that has NUMA node 1 of a host for itself.
host::Placement lonely_rank() {
    host::Placement placement;
    placement.host = "node07";
    placement.rank = 5;
    placement.node_rank = 1;
    placement.node_ranks = 4;
    placement.numa_nodes = {1};
    placement.cores = {8, 9, 10, 12};
    placement.processing_units = {8, 9, 10, 12};
    placement.threads = 4;
    placement.memory_bytes = std::uint64_t{64} << 30U;
    placement.memory_available_bytes = std::uint64_t{60} << 30U;
    return placement;
}

TEST(PlacementReport, MapHasALinePerRank) {
    const host::Binding bound = {true, 0, {1}};
    const std::string line = host::map_line(lonely_rank(), bound, "node00");
    for (const char* part : {"node07", " 5 ", " 1 ", "8-10,12", "4 bound", "60.0 of 64.0", "network"}) {
        EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
    }
    EXPECT_NE(host::map_line(lonely_rank(), bound, "node07").find("shared memory"), std::string::npos);
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST(PlacementReport, WarnsOfEachLossOfSpeedAlone) {
    struct Case {
        const char* what;
        std::function<void(host::Placement&, host::Binding&)> spoil;
    };
    const std::vector<Case> cases = {
        {"spans several NUMA nodes (0-1)",
         [](host::Placement& p, host::Binding&) {
             p.numa_nodes = {0, 1};
         }},
        {"2 ranks of node07 on node 1", [](host::Placement& p, host::Binding&) { p.numa_ranks = 2; }},
        {"others use its cores", [](host::Placement& p, host::Binding&) { p.cores_shared = true; }},
        {"SMT siblings", [](host::Placement& p, host::Binding&) { p.threads = 8, p.units_per_core = 2; }},
        {"not be bound", [](host::Placement&, host::Binding& b) { b.threads_bound = false; }},
        {"remote memory", [](host::Placement&, host::Binding& b) { b.memory_nodes = {0}; }},
        {"other processes use its cores (2.0 of 4 cores busy)",
         [](host::Placement&, host::Binding& b) { b.foreign_load = 2; }},
    };
    const auto warnings = [](const host::Placement& placement, const host::Binding& binding) {
        return host::group_remarks({host::remarks(placement, binding)});
    };
    EXPECT_TRUE(warnings(lonely_rank(), {true, 0.2, {1}}).empty());
    EXPECT_TRUE(warnings(lonely_rank(), {true, 0, {}}).empty()) << "an unknown place of memory is no warning";
    for (const Case& c : cases) {
        host::Placement placement = lonely_rank();
        host::Binding binding = {true, 0, {1}};
        c.spoil(placement, binding);
        const auto lines = warnings(placement, binding);
        ASSERT_EQ(lines.size(), 1U) << c.what;
        EXPECT_EQ(lines[0].severity, host::Severity::warning);
        EXPECT_NE(lines[0].text.find(c.what), std::string::npos) << lines[0].text;
    }
    host::Placement few_threads = lonely_rank();
    few_threads.threads = 2;
    EXPECT_EQ(warnings(few_threads, {false, 2, {1}}).front().severity, host::Severity::note)
        << "there is room beside the others";
}

TEST(Placement, RanksThatSeeDifferentTopologiesAreRefused) {
    const Communicator world = Communicator::world();
    if (world.size() == 1 || is_emulated()) {
        GTEST_SKIP() << "needs several ranks of a real host";
    }
    const PlaceSettings settings = {.topology = world.rank() == 1 ? "numa:1 core:4 pu:1" : "numa:2 core:8 pu:1"};
    try {
        static_cast<void>(place(world, settings));
        ADD_FAILURE() << "accepted";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        EXPECT_NE(std::string(error.what()).find("rank 1: the topology of "), std::string::npos) << error.what();
    }
}

TEST(Placement, PlansForADescribedHost) {
    if (is_emulated()) {
        GTEST_SKIP() << "HWLOC_SYNTHETIC describes a host already";
    }
    const Communicator world = Communicator::world();
    const host::Placement placement = place(world, {.topology = "numa:4 core:6 pu:2"});
    EXPECT_TRUE(placement.emulated);
    EXPECT_EQ(placement.units_per_core, 2);
    EXPECT_EQ(std::ssize(placement.cores), 24 / world.size());
    EXPECT_EQ(std::ssize(placement.numa_nodes), 4 / world.size());
    EXPECT_EQ(placement.numa_ranks, 1);
    EXPECT_FALSE(host::bind_threads(placement));
    for (const char* wrong : {"numa:x", "core:0", "/nonexistent.xml"}) {
        EXPECT_THROW(static_cast<void>(place(world, {.topology = wrong})), core::Error) << wrong;
    }
}

/// Where the threads of a rank with so many threads may run, after they were bound.
std::vector<std::set<int>> places_of_threads(const host::Placement& placement) {
    std::vector<std::set<int>> affinities(static_cast<std::size_t>(placement.threads));
    on_own_thread([&] {
        EXPECT_EQ(host::bind_threads(placement), host::places_for(placement) == host::ThreadPlaces::own_units);
        EXPECT_EQ(omp_get_max_threads(), placement.threads);
#pragma omp parallel
        affinities[static_cast<std::size_t>(omp_get_thread_num())] = affinity_of_this_thread();
    });
    return affinities;
}

TEST(Placement, BindsEachThreadToItsProcessingUnit) {
    host::Placement placement = place(Communicator::world());
    placement.threads = static_cast<int>(placement.cores.size());
    const bool bound = !placement.cores_shared && !is_emulated();
    const std::set<int> before = affinity_of_this_thread();
    const std::vector<std::set<int>> places = places_of_threads(placement);
    for (std::size_t thread = 0; thread < places.size(); ++thread) {
        EXPECT_EQ(places[thread], bound ? std::set<int>{placement.processing_units[thread]} : before);
    }
}

/// Another job on this host would take the same ones otherwise.
TEST(Placement, FewerThreadsThanCoresMoveAmongThemUnlessALauncherChoseThem) {
    host::Placement placement = place(Communicator::world());
    if (placement.cores.size() < 2 || is_emulated()) {
        GTEST_SKIP() << "needs two cores";
    }
    placement.threads = 1;
    placement.bound_by_launcher = false;
    const std::set<int> units(placement.processing_units.begin(), placement.processing_units.end());
    EXPECT_EQ(places_of_threads(placement).front(), units);
    placement.bound_by_launcher = true;
    EXPECT_EQ(places_of_threads(placement).front(), std::set<int>{placement.processing_units.front()});
}

TEST(Placement, MoreThreadsThanCoresStayUnbound) {
    host::Placement placement = place(Communicator::world());
    placement.threads = static_cast<int>(placement.cores.size()) + 1;
    on_own_thread([&] {
        const std::set<int> before = affinity_of_this_thread();
        EXPECT_FALSE(host::bind_threads(placement));
        EXPECT_EQ(affinity_of_this_thread(), before);
        int team = 0;
#pragma omp parallel
#pragma omp single
        team = omp_get_num_threads();
        EXPECT_EQ(team, placement.threads);
    });
}

TEST(Placement, OnTheEmulatedHostEveryRankHasWholeNumaNodes) {
    if (!is_emulated()) {
        GTEST_SKIP() << "runs with HWLOC_SYNTHETIC only";
    }
    constexpr int nodes = 8;
    constexpr int cores_per_node = 8;
    const Communicator world = Communicator::world();
    const host::Placement placement = place(world);
    const int my_nodes = nodes / world.size();
    std::vector<int> expected_nodes(static_cast<std::size_t>(my_nodes));
    std::iota(expected_nodes.begin(), expected_nodes.end(), world.rank() * my_nodes);
    std::vector<int> expected_cores(static_cast<std::size_t>(my_nodes * cores_per_node));
    std::iota(expected_cores.begin(), expected_cores.end(), world.rank() * my_nodes * cores_per_node);
    EXPECT_EQ(placement.numa_nodes, expected_nodes);
    EXPECT_EQ(placement.cores, expected_cores);
    EXPECT_EQ(placement.processing_units, expected_cores);
    EXPECT_FALSE(placement.bound_by_launcher);
    EXPECT_FALSE(host::bind_threads(placement)) << "nothing can be bound on a host that is not this one";
}

}  // namespace
}  // namespace moesaic::mpi
