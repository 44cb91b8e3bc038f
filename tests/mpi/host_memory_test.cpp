// Memory that ranks of a host share.
#include "mpi/host_memory.hpp"

#include "host/process_memory.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

namespace moesaic::mpi {
namespace {

/// Each rank writes its part, reads those of the others, and has the same page boundaries.
TEST(HostMemory, IsTheSameForAllRanks) {
    const Communicator host = Communicator::world().split_by_node();
    constexpr std::size_t of_rank = 10'000;  // no whole pages
    const HostMemory memory(host, of_rank * static_cast<std::size_t>(host.size()));
    const std::span<std::byte> all = memory.bytes();
    ASSERT_EQ(all.size(), of_rank * static_cast<std::size_t>(host.size()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(all.data()) % 4096, 0U);
    const auto part = all.subspan(of_rank * static_cast<std::size_t>(host.rank()), of_rank);
    memory.take_pages(part);
    std::fill(part.begin(), part.end(), static_cast<std::byte>(host.rank() + 1));
    memory.publish();
    for (std::size_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(all[i], static_cast<std::byte>(i / of_rank + 1)) << i;
    }
    host.barrier();
}

TEST(HostMemory, IsGivenBack) {
    const Communicator host = Communicator::world().split_by_node();
    constexpr std::size_t bytes = std::size_t{4} << 20U;
    constexpr int times = 50;
    const std::uint64_t before = host::resident_memory_bytes();
    for (int i = 0; i < times; ++i) {
        const HostMemory memory(host, bytes);
        memory.take_pages(memory.bytes());
        std::fill(memory.bytes().begin(), memory.bytes().end(), std::byte{1});
    }
    EXPECT_LT(host::resident_memory_bytes(), before + times * bytes / 2);
}

/// A rank alone with an error must not wait for the others to free the window.
TEST(HostMemory, AnErrorOfOneRankWaitsForNobody) {
    const Communicator host = Communicator::world().split_by_node();
    auto memory = std::make_unique<HostMemory>(host, 4096);
    const auto fail = [&] {
        const std::unique_ptr<HostMemory> held = std::move(memory);
        throw std::runtime_error("of this rank alone");
    };
    if (host.is_root()) {
        EXPECT_THROW(fail(), std::runtime_error);
    } else {
        static_cast<void>(memory.release());  // this rank goes on with it
    }
    host.barrier();
}

TEST(HostMemory, MoreThanThereIsIsRefused) {
    EXPECT_NO_THROW(HostMemory::require_room(4096, ""));
    try {
        HostMemory::require_room(std::numeric_limits<std::size_t>::max() / 2, "or do without");
        ADD_FAILURE() << "accepted";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::out_of_resources);
        EXPECT_NE(std::string(error.what()).find(", or do without"), std::string::npos) << error.what();
    }
    struct rlimit before {};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = before;
    small.rlim_cur = std::size_t{1} << 20U;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    try {
        HostMemory::require_room(std::size_t{2} << 20U, "or do without");
        ADD_FAILURE() << "accepted";
    } catch (const core::Error& error) {
        EXPECT_NE(std::string(error.what()).find("RLIMIT_FSIZE"), std::string::npos) << error.what();
    }
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
}

}  // namespace
}  // namespace moesaic::mpi
