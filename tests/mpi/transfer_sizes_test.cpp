#include "mpi/transfer_sizes.hpp"

#include "core/error.hpp"
#include "mpi/communicator.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::mpi {
namespace {

using Piece = std::pair<std::size_t, std::size_t>;

std::vector<Piece> pieces(std::size_t bytes, std::size_t piece) {
    std::vector<Piece> all;
    for_each_piece(bytes, piece, [&](std::size_t offset, std::size_t length) { all.emplace_back(offset, length); });
    return all;
}

TEST(TransferSizes, PiecesCoverEveryByteOnce) {
    EXPECT_EQ(pieces(0, 4), (std::vector<Piece>{}));
    EXPECT_EQ(pieces(3, 4), (std::vector<Piece>{{0, 3}}));
    EXPECT_EQ(pieces(4, 4), (std::vector<Piece>{{0, 4}}));
    EXPECT_EQ(pieces(9, 4), (std::vector<Piece>{{0, 4}, {4, 4}, {8, 1}}));
    const std::size_t five_gib = std::size_t{5} << 30U;
    EXPECT_EQ(pieces(five_gib + 1, largest_piece).size(), 6U);
}

TEST(TransferSizes, BroadcastInPiecesArrivesWhole) {
    const Communicator world = Communicator::world();
    std::vector<std::uint8_t> values(10007);
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = world.is_root() ? static_cast<std::uint8_t>(i % 251) : std::uint8_t{255};
    }
    for_each_piece(values.size(), 1000, [&](std::size_t offset, std::size_t length) {
        world.broadcast(std::span(values).subspan(offset, length));
    });
    for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(values[i], i % 251) << "byte " << i;
    }
}

TEST(TransferSizes, BlocksAreCountsAndTheirPrefixSums) {
    const std::array<index_t, 4> counts{2, 0, 5, 1};
    const Blocks blocks = make_blocks(counts, 3, "test");
    EXPECT_EQ(blocks.counts, (std::vector<int>{6, 0, 15, 3}));
    EXPECT_EQ(blocks.offsets, (std::vector<int>{0, 6, 6, 21}));
}

TEST(TransferSizes, BlocksBeyondAnIntAreRefused) {
    const std::array<index_t, 2> fits{(index_t{1} << 30) - 1, index_t{1} << 30};
    EXPECT_EQ(make_blocks(fits, 1, "test").offsets[1], (1 << 30) - 1);
    const std::array<index_t, 2> too_many{index_t{1} << 30, index_t{1} << 30};
    const std::array<index_t, 2> wide{1, 1 << 20};
    for (const auto& [counts, scale] : {std::pair{too_many, index_t{1}}, std::pair{wide, index_t{2048}}}) {
        try {
            static_cast<void>(make_blocks(counts, scale, "mpi.some_collective"));
            ADD_FAILURE() << "accepted";
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::runtime_failure);
            EXPECT_NE(std::string(error.what()).find("mpi.some_collective"), std::string::npos);
        }
    }
}

TEST(TransferSizes, NegativeCountsAreRefused) {
    const std::array<index_t, 2> counts{4, -1};
    EXPECT_THROW(static_cast<void>(make_blocks(counts, 1, "test")), core::Error);
}

}  // namespace
}  // namespace moesaic::mpi
