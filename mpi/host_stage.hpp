// Row collectives through memory that ranks of a host share: with all threads of every rank, in pieces that stay in
// caches. MPI libraries copy and sum with one thread.
#pragma once

#include "mpi/communicator_handle.hpp"
#include "mpi/host_memory.hpp"

#include <memory>
#include <span>
#include <vector>

namespace moesaic::mpi {

/// A window in which every rank of a host has two places for what it gives the others: they read one while it fills
/// the other.
class HostStage {
public:
    static constexpr std::size_t piece_bytes = std::size_t{1} << 19U;
    /// Of a window for so many ranks.
    static constexpr std::size_t bytes_for(int ranks) { return static_cast<std::size_t>(ranks) * 2 * piece_bytes; }

    /// Collective over `host`, whose number `number` no other host has.
    HostStage(const Communicator& host, int number);
    /// Of this rank, as HostMemory::take_pages: to be called before use.
    void take_pages() const;

    [[nodiscard]] int host() const noexcept { return number_; }
    /// This process on its host.
    [[nodiscard]] int rank() const noexcept { return memory_.host().rank(); }
    /// Where that rank of the host leaves a piece in step `step`.
    [[nodiscard]] std::byte* place(int rank, std::size_t step) const noexcept {
        return memory_.bytes().data() + (2 * static_cast<std::size_t>(rank) + step % 2) * piece_bytes;
    }
    /// What this rank wrote before a meeting of ranks, the others see after it; so both sides call this.
    void synchronise() const { memory_.synchronise(); }

private:
    HostMemory memory_;
    int number_;
};

/// Consecutive bytes in several places.
template <class Byte>
using Pieces = std::vector<std::span<Byte>>;

/// The stage as a group uses it whose ranks are all on one host. Lists have an entry for every rank of the group.
class StagedGroup {
public:
    /// `places`: of every rank of the group on its host.
    StagedGroup(std::shared_ptr<const HostStage> stage, std::vector<int> places, MPI_Comm group);

    /// For less, calling the library is faster.
    static constexpr std::size_t least_bytes = std::size_t{1} << 14U;

    /// Collective. Rank r's `mine` is in all[r] on all ranks afterwards; its own may be there before.
    void all_gather(const Pieces<const std::byte>& mine, const std::vector<Pieces<std::byte>>& all) const;
    /// Collective. sent[r] goes to rank r, whose received[this rank] is as long. False, and nothing done, if all have
    /// too little to send.
    [[nodiscard]] bool all_to_all(const Pieces<const std::byte>& sent, const Pieces<std::byte>& received) const;
    /// Collective. Sums parts[r] of all ranks for rank r, in the order of ranks: sums [length of the own part].
    template <class T>
    void reduce_scatter(const std::vector<Pieces<const std::byte>>& parts, T* sums) const;

private:
    struct Copy {
        std::byte* to;
        const std::byte* from;
        std::size_t bytes;
    };
    using Copies = std::vector<Copy>;

    /// Where a rank of the group leaves what step `step` gives to all others.
    [[nodiscard]] std::byte* place(std::size_t rank, std::size_t step) const {
        return stage_->place(places_[rank], step);
    }
    /// Where it leaves what it gives to one of them.
    [[nodiscard]] std::byte* lane(std::size_t from, std::size_t to, std::size_t step) const {
        return place(from, step) + to * lane_bytes_;
    }
    /// Rank number i after this one: not all begin with the same.
    [[nodiscard]] std::size_t after(std::size_t i) const { return (rank_ + i) % places_.size(); }
    void meet() const;
    /// fill(s) lists what this rank copies to its places in step s, and use(s) what it copies out of those of others.
    template <class Fill, class Use>
    void run_steps(std::size_t steps, const Fill& fill, const Use& use) const;
    template <class Part>
    void fill_lanes(const std::vector<Part>& parts, std::size_t step, Copies& copies) const;

    std::shared_ptr<const HostStage> stage_;
    std::vector<int> places_;
    MPI_Comm group_;
    std::size_t rank_;
    std::size_t lane_bytes_;
};

/// Ways of a group that has equally many ranks on each of several hosts: ranks at the same place of their hosts form a
/// rail. What belongs to a rank travels between hosts on its own rail.
struct Communicator::Rails {
    Communicator host;                      ///< the group's ranks on this host
    Communicator rail;                      ///< those of other hosts at the same place
    std::vector<std::vector<int>> members;  ///< ranks of the group on each rail, by host

    /// Of blocks of all ranks those of each rail.
    template <class Byte>
    [[nodiscard]] std::vector<Pieces<Byte>> of_rails(const Pieces<Byte>& blocks) const {
        std::vector<Pieces<Byte>> lists(members.size());
        for (std::size_t i = 0; i < members.size(); ++i) {
            for (const int rank : members[i]) {
                lists[i].push_back(blocks[static_cast<std::size_t>(rank)]);
            }
        }
        return lists;
    }
    /// Of numbers of all ranks those of this rank's rail.
    template <class Number>
    [[nodiscard]] std::vector<Number> of_rail(std::span<const Number> counts) const {
        std::vector<Number> own;
        for (const int rank : members[static_cast<std::size_t>(host.rank())]) {
            own.push_back(counts[static_cast<std::size_t>(rank)]);
        }
        return own;
    }
};

}  // namespace moesaic::mpi
