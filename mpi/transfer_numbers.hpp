// Numbers of collective calls and messages, which all ranks count alike without talking about it.
#pragma once

#include "core/trace.hpp"

#include <cstdint>
#include <vector>

namespace moesaic::mpi {

/// Counts the calls of one group of ranks. Every rank of the group makes the same collective calls in the same order,
/// and messages from one rank to another arrive in order.
class TransferNumbers {
public:
    /// `group`: the same on all ranks of the group, and on no other group.
    TransferNumbers(std::uint64_t group, int rank, int size);

    /// The next collective call. With an arrow to the next rank of the group and one from the rank before, if asked
    /// for: one ring stands for all pairs of ranks.
    [[nodiscard]] core::trace::Transfer next_call(bool with_arrows);
    [[nodiscard]] core::trace::Transfer next_sent(int to);
    [[nodiscard]] core::trace::Transfer next_received(int from);
    /// Number of the group that a split makes; call after next_call.
    [[nodiscard]] std::uint64_t of_part(int colour) const;

private:
    std::uint64_t group_;
    std::uint64_t rank_;
    std::uint64_t size_;
    std::uint64_t calls_ = 0;
    std::vector<std::uint64_t> sent_;      // to each rank
    std::vector<std::uint64_t> received_;  // from each rank
};

}  // namespace moesaic::mpi
