#include "mpi/communicator.hpp"

#include "core/error.hpp"
#include "core/trace.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::mpi {
namespace {

TEST(Environment, NamesTheLibraryInOneLine) {
    const std::string version = Environment::library_version();
    EXPECT_FALSE(version.empty());
    EXPECT_EQ(version.find('\n'), std::string::npos);
}

TEST(Environment, TransportIsTheOneInUse) {
    const std::string transport = Environment::transport();
    EXPECT_EQ(Environment::transport(), transport);
    if (!Environment::library_version().starts_with("Open MPI")) {
        GTEST_SKIP() << "only Open MPI tells";
    }
    EXPECT_FALSE(transport.empty());
    if (transport.starts_with("ob1")) {  // elsewhere a network of its own may have been chosen
        EXPECT_NE(transport.find(" over "), std::string::npos) << transport;
        EXPECT_NE(transport.find("self"), std::string::npos) << transport;
        // The test starts its ranks on one host; version 5 calls shared memory "sm".
        const bool shared_memory = transport.find("vader") != std::string::npos || transport.ends_with("sm");
        EXPECT_EQ(shared_memory, Communicator::world().size() > 1) << transport;
    }
}

TEST(Communicator, SelfIsAlone) {
    const Communicator self = Communicator::self();
    EXPECT_EQ(self.size(), 1);
    EXPECT_EQ(self.rank(), 0);
    EXPECT_TRUE(self.is_root());
    EXPECT_EQ(self.sum(7.0), 7.0);
    EXPECT_EQ(self.gather("text"), std::vector<std::string>{"text"});
}

template <class Scalar>
class Reductions : public testing::Test {};
using ReducedTypes = testing::Types<float, double, std::int64_t>;
TYPED_TEST_SUITE(Reductions, ReducedTypes);

TYPED_TEST(Reductions, OfOneValue) {
    const Communicator world = Communicator::world();
    const auto size = static_cast<TypeParam>(world.size());
    const auto rank = static_cast<TypeParam>(world.rank());
    EXPECT_EQ(world.sum(rank + 1), size * (size + 1) / 2);
    EXPECT_EQ(world.max(-rank), TypeParam{0});
    EXPECT_EQ(world.max(rank), size - 1);
    EXPECT_EQ(world.min(-rank), 1 - size);
    EXPECT_EQ(world.min(rank + 5), TypeParam{5});
}

TYPED_TEST(Reductions, OfManyValuesInPlace) {
    const Communicator world = Communicator::world();
    for (const int length : {0, 1, 1000}) {
        std::vector<TypeParam> values(static_cast<std::size_t>(length));
        for (int i = 0; i < length; ++i) {
            values[static_cast<std::size_t>(i)] = static_cast<TypeParam>(i) * static_cast<TypeParam>(world.rank() + 1);
        }
        world.sum(std::span(values));
        const int factor = world.size() * (world.size() + 1) / 2;
        for (int i = 0; i < length; ++i) {
            ASSERT_EQ(values[static_cast<std::size_t>(i)], static_cast<TypeParam>(i * factor)) << i;
        }
    }
}

TEST(Communicator, Int64KeepsAllBits) {
    const Communicator world = Communicator::world();
    const std::int64_t large = (std::int64_t{1} << 60) + 1;
    EXPECT_EQ(world.max(large + world.rank()), large + world.size() - 1);
    EXPECT_EQ(world.all_gather(large + world.rank()).back(), large + world.size() - 1);
}

TEST(Communicator, AllGatherIsInRankOrder) {
    const Communicator world = Communicator::world();
    const std::vector<std::int64_t> values = world.all_gather(std::int64_t{5} + world.rank());
    ASSERT_EQ(std::ssize(values), world.size());
    for (int rank = 0; rank < world.size(); ++rank) {
        EXPECT_EQ(values[static_cast<std::size_t>(rank)], 5 + rank);
    }
}

TEST(Communicator, TextsOfAllRanksReachAllRanks) {
    const Communicator world = Communicator::world();
    const std::vector<std::string> texts = world.all_gather(std::string(static_cast<std::size_t>(world.rank()), 'x'));
    ASSERT_EQ(std::ssize(texts), world.size());
    for (std::size_t rank = 0; rank < texts.size(); ++rank) {
        EXPECT_EQ(texts[rank], std::string(rank, 'x'));
    }
}

TEST(Communicator, BroadcastFromEveryRoot) {
    struct Record {
        std::int32_t number;
        double value;
    };
    const Communicator world = Communicator::world();
    for (int root = 0; root < world.size(); ++root) {
        std::vector<Record> records(17, Record{world.rank(), 0.25 * world.rank()});
        world.broadcast(std::span(records), root);
        EXPECT_TRUE(std::all_of(records.begin(), records.end(), [&](const Record& record) {
            return record.number == root && record.value == 0.25 * root;
        }));
    }
    std::vector<float> nothing;
    world.broadcast(std::span(nothing));
}

TEST(Communicator, BroadcastTextOfAnyLength) {
    const Communicator world = Communicator::world();
    for (int root = 0; root < world.size(); ++root) {
        for (const std::size_t length : {std::size_t{0}, std::size_t{3}, std::size_t{70000}}) {
            const std::string expected(length, static_cast<char>('a' + root));
            std::string text =
                world.rank() == root ? expected : std::string(static_cast<std::size_t>(world.rank()) * 40, '?');
            world.broadcast(text, root);
            EXPECT_EQ(text, expected);
        }
    }
}

TEST(Communicator, GatherTextsOnRankZero) {
    const Communicator world = Communicator::world();
    const auto text_of = [](int rank) {
        return rank == 1 ? std::string()
                         : fmt::format("{}\n{}", rank, std::string(static_cast<std::size_t>(rank), '\0'));
    };
    const std::vector<std::string> texts = world.gather(text_of(world.rank()));
    ASSERT_EQ(std::ssize(texts), world.is_root() ? world.size() : 0);
    for (std::size_t rank = 0; rank < texts.size(); ++rank) {
        EXPECT_EQ(texts[rank], text_of(static_cast<int>(rank)));
    }
}

TEST(Communicator, SplitOrdersByKey) {
    const Communicator world = Communicator::world();
    const Communicator reversed = world.split(0, -world.rank());
    EXPECT_EQ(reversed.size(), world.size());
    EXPECT_EQ(reversed.rank(), world.size() - 1 - world.rank());
    EXPECT_THROW(static_cast<void>(world.split(-1, 0)), core::Error);
}

TEST(Communicator, NestedGroupsWorkSideBySide) {
    const Communicator world = Communicator::world();
    const Communicator pair = world.split(world.rank() / 2, world.rank());
    const Communicator column = world.split(world.rank() % 2, world.rank());
    const Communicator single = pair.split(pair.rank(), 0);
    EXPECT_EQ(single.size(), 1);
    EXPECT_EQ(pair.size(), std::min(2, world.size()));
    std::int64_t pair_sum = 0;
    std::int64_t column_sum = 0;
    for (int rank = 0; rank < world.size(); ++rank) {
        pair_sum += rank / 2 == world.rank() / 2 ? rank : 0;
        column_sum += rank % 2 == world.rank() % 2 ? rank : 0;
    }
    const std::int64_t rank = world.rank();
    EXPECT_EQ(pair.sum(rank), pair_sum);
    EXPECT_EQ(column.sum(rank), column_sum);
    EXPECT_EQ(single.sum(rank), rank);
}

TEST(Communicator, CopiesOutliveTheOriginal) {
    const Communicator world = Communicator::world();
    Communicator copy = Communicator::self();
    {
        const Communicator group = world.split(0, world.rank());
        copy = group;
    }
    EXPECT_EQ(copy.sum(std::int64_t{1}), world.size());
}

TEST(Communicator, ManyGroupsDoNotExhaustTheLibrary) {
    if (!Communicator::world().is_root()) {
        GTEST_SKIP() << "one rank is enough";
    }
    const Communicator self = Communicator::self();
    for (int i = 0; i < 70000; ++i) {  // Open MPI holds at most 2^16 at a time
        const Communicator group = self.split(0, 0);
        ASSERT_EQ(group.size(), 1);
    }
}

TEST(Communicator, RanksOfOneHostShareANode) {
    const Communicator world = Communicator::world();
    const Communicator node = world.split_by_node();
    EXPECT_EQ(node.size(), world.size());  // mpirun started all of them here
    EXPECT_EQ(node.rank(), world.rank());
}

TEST(Communicator, ErrorsOfTheLibraryNameTheOperation) {
    const Communicator world = Communicator::world().split(0, 0);
    if (world.size() == 1) {
        GTEST_SKIP() << "a group of one rank calls no MPI function here";
    }
    std::vector<float> values(3);
    try {
        world.broadcast(std::span(values), world.size());
        ADD_FAILURE() << "accepted a root outside of the group";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::runtime_failure);
        EXPECT_EQ(std::string(error.what()).find("MPI_Bcast failed ("), 0U) << error.what();
    }
}

TEST(Communicator, CollectivesLeaveTraceScopesWithTheirBytes) {
    const Communicator world = Communicator::world();
    std::array<double, 5> values{};
    static_cast<void>(core::trace::take());
    core::trace::enable(true);
    world.barrier();
    world.sum(std::span<double>(values));
    world.broadcast(std::span<double>(values));
    core::trace::enable(false);
    const std::vector<core::trace::Event> events = core::trace::take();
    ASSERT_EQ(events.size(), 3U);
    const std::array<std::pair<std::string, std::int64_t>, 3> expected{
        {{"mpi.barrier", 0}, {"mpi.sum", 40}, {"mpi.broadcast", world.is_root() ? 40 : 0}}};
    for (std::size_t i = 0; i < events.size(); ++i) {
        EXPECT_EQ(events[i].name, expected[i].first);
        EXPECT_EQ(events[i].bytes, expected[i].second);
        EXPECT_EQ(std::string(events[i].category), "mpi");
    }
}

}  // namespace
}  // namespace moesaic::mpi
