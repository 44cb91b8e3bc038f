#include "mpi/transfer_numbers.hpp"

#include <initializer_list>

namespace moesaic::mpi {
namespace {

enum Kind : std::uint64_t { collective, ring_arrow, message, part };

/// Numbers below 2^53, which JavaScript keeps exactly, and never 0. The mixing is that of SplitMix64.
std::uint64_t mix(std::initializer_list<std::uint64_t> parts) {
    std::uint64_t state = 0;
    for (const std::uint64_t p : parts) {
        state += p + 0x9E3779B97F4A7C15U;
        state = (state ^ (state >> 30U)) * 0xBF58476D1CE4E5B9U;
        state = (state ^ (state >> 27U)) * 0x94D049BB133111EBU;
        state ^= state >> 31U;
    }
    return (state >> 11U) | 1U;
}

}  // namespace

TransferNumbers::TransferNumbers(std::uint64_t group, int rank, int size)
    : group_(group),
      rank_(static_cast<std::uint64_t>(rank)),
      size_(static_cast<std::uint64_t>(size)),
      sent_(size_, 0),
      received_(size_, 0) {}

core::trace::Transfer TransferNumbers::next_call(bool with_arrows) {
    const std::uint64_t call = mix({collective, group_, ++calls_});
    if (!with_arrows) {
        return {call, 0, 0};
    }
    const std::uint64_t before = (rank_ + size_ - 1) % size_;
    return {call, mix({ring_arrow, call, rank_}), mix({ring_arrow, call, before})};
}

core::trace::Transfer TransferNumbers::next_sent(int to) {
    const auto other = static_cast<std::uint64_t>(to);
    return {0, mix({message, group_, rank_, other, ++sent_.at(other)}), 0};
}

core::trace::Transfer TransferNumbers::next_received(int from) {
    const auto other = static_cast<std::uint64_t>(from);
    return {0, 0, mix({message, group_, other, rank_, ++received_.at(other)})};
}

std::uint64_t TransferNumbers::of_part(int colour) const {
    return mix({part, group_, calls_, static_cast<std::uint64_t>(colour)});
}

}  // namespace moesaic::mpi
