// MPI ranks: start-up and end of the library, typed collectives, and errors that become every rank's errors.
#pragma once

#include "core/error.hpp"
#include "core/matrix.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace moesaic::mpi {

class HostStage;
class Progress;
class StagedGroup;

using core::index_t;
using core::MatrixView;

/// An error that every rank of a group throws alike, so that the program can end in good order.
class AgreedError : public core::Error {
public:
    using core::Error::Error;
};

/// Owns MPI_Init_thread (funneled) and MPI_Finalize. A process started without mpirun is a world of one rank.
class Environment {
public:
    Environment(int& argc, char**& argv);
    ~Environment();
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

    /// Library name and version in one line.
    [[nodiscard]] static std::string library_version();
    /// How messages travel: the components that Open MPI has chosen, as "ob1 over self, tcp, vader" or "ucx". Empty
    /// with a library that doesn't tell; there the version may.
    [[nodiscard]] static std::string transport();
    /// Ends all ranks at once with `exit_code`; for failures after which ranks can no longer meet in a collective.
    [[noreturn]] static void abort(int exit_code) noexcept;

private:
    bool owns_library_ = false;  // false where an embedding program started MPI itself and will end it
};

/// A group of ranks. Copies share the group. Member functions are collective but for accessors, send and receive: every
/// rank of the group calls them in the same order. Every collective notes in `progress` that this rank waits, and
/// records a trace scope with the bytes that this rank contributes.
class Communicator {
public:
    [[nodiscard]] static Communicator world();
    /// A group of this process alone.
    [[nodiscard]] static Communicator self();

    [[nodiscard]] int rank() const noexcept;
    [[nodiscard]] int size() const noexcept;
    [[nodiscard]] bool is_root() const noexcept { return rank() == 0; }
    /// What this process is doing, in this group and all that come from the same world.
    [[nodiscard]] Progress& progress() const noexcept;

    /// Collective. Ranks with the same colour form a group, ordered by `key`.
    [[nodiscard]] Communicator split(int colour, int key) const;
    /// Collective. The ranks of this group that share the caller's host memory.
    [[nodiscard]] Communicator split_by_node() const;

    /// The same group, whose all_gather_rows and all_to_all_rows sleep between looks at their progress: other threads
    /// can use the core of the one that waits.
    [[nodiscard]] Communicator sleeping_waits() const;

    /// Collective. The same group, but its functions on rows, and those of groups split from it, go through memory that
    /// the ranks of a host share, with all threads of every rank; between hosts go sums over a host, and what is
    /// gathered goes to every host once. Throws with ExitCode::out_of_resources on all ranks if a host has no room.
    [[nodiscard]] Communicator with_shared_stage() const;
    /// Whether it does so.
    [[nodiscard]] bool has_shared_stage() const noexcept { return stage_ != nullptr; }

    void barrier() const;
    /// A barrier for long waits: asks every millisecond and sleeps in between, so that cores are free for other ranks.
    void sleeping_barrier() const;
    /// Element-wise results over all ranks, in place. T: float, double, std::int64_t.
    template <class T>
    void sum(std::span<T> values) const;
    template <class T>
    requires std::is_arithmetic_v<T>
    [[nodiscard]] T sum(T value) const;
    template <class T>
    [[nodiscard]] T max(T value) const;
    template <class T>
    [[nodiscard]] T min(T value) const;
    /// One number of every rank, in rank order.
    [[nodiscard]] std::vector<std::int64_t> all_gather(std::int64_t value) const;

    /// Copies `values` of `root` to all ranks; sizes agree already. T: trivially copyable; any length, beyond 2^31 too.
    template <class T>
    void broadcast(std::span<T> values, int root = 0) const {
        static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>);
        broadcast_bytes(std::as_writable_bytes(values), root);
    }
    /// Copies `text` of `root` to all ranks; sizes may differ before.
    void broadcast(std::string& text, int root = 0) const;
    /// Texts of all ranks, in rank order, on rank 0; empty elsewhere.
    [[nodiscard]] std::vector<std::string> gather(const std::string& text) const;
    /// Texts of all ranks, in rank order, on all ranks.
    [[nodiscard]] std::vector<std::string> all_gather(const std::string& text) const;

    /// Row blocks of all ranks, in rank order, on all ranks: `mine` [counts[rank], cols] -> `all` [sum(counts), cols].
    /// Both contiguous. T: bf16, float, double, std::int32_t, std::int64_t, std::uint64_t. An idle rank has zero rows
    /// and takes part. `mine` may be its own block inside `all`.
    template <class T>
    void all_gather_rows(MatrixView<const T> mine, MatrixView<T> all, std::span<const index_t> counts) const;
    /// Sums `all` [sum(counts), cols] over ranks and leaves rows of rank r with rank r: `mine` [counts[rank], cols].
    /// T: float, double.
    template <class T>
    void reduce_scatter_rows(MatrixView<const T> all, MatrixView<T> mine, std::span<const index_t> counts) const;
    /// Sends row blocks to all ranks and gets one from each, both in rank order: `sent` [sum(sent_counts), cols] ->
    /// `received` [sum(received_counts), cols]. Both contiguous. T: bf16, float, double, std::int32_t, std::uint64_t.
    template <class T>
    void all_to_all_rows(MatrixView<const T> sent, std::span<const index_t> sent_counts, MatrixView<T> received,
                         std::span<const index_t> received_counts) const;
    /// Contiguous blocks of all ranks, in rank order, on rank 0 (`all` may be empty elsewhere). T: float, double.
    template <class T>
    void gather_blocks(std::span<const T> mine, std::span<T> all, std::span<const index_t> counts) const;

    /// Sends to one rank, which must receive as many bytes. The only functions that are not collective; any length.
    void send(std::span<const std::byte> bytes, int to) const;
    void receive(std::span<std::byte> bytes, int from) const;

    /// Runs `work` on every rank; if it throws on any rank, every rank throws an AgreedError, that of the lowest
    /// failing rank, with its exit code and "rank R: " before its message if the group has several ranks. `work` itself
    /// must not call collectives of this group. Errors that are no core::Error count as run-time failures,
    /// std::bad_alloc as out of resources.
    void agree(const std::function<void()>& work) const;

private:
    friend class HostMemory;
    struct Handle;
    class Call;
    struct Rails;
    explicit Communicator(std::shared_ptr<const Handle> handle);
    void broadcast_bytes(std::span<std::byte> bytes, int root) const;
    void gather_bytes(std::span<const std::byte> mine, std::span<std::byte> all,
                      std::span<const index_t> bytes_of_ranks) const;
    /// Collective over the group. Its rows go through the stage within a host.
    void use(std::shared_ptr<const HostStage> stage);
    /// Whether rows, of at most so many bytes to a rank, travel faster through the stage than through MPI.
    [[nodiscard]] bool is_worth_staging(std::int64_t largest_block) const;
    /// Texts of all ranks one after the other on rank 0, of known lengths; empty elsewhere.
    [[nodiscard]] std::string gather_joined(const std::string& text, std::span<const index_t> lengths) const;

    std::shared_ptr<const Handle> handle_;
    std::shared_ptr<const HostStage> stage_;     // of the host, for groups that are split from this one
    std::shared_ptr<const StagedGroup> staged_;  // of this group, if it is on one host
    std::shared_ptr<const Rails> rails_;         // of this group, if it has several ranks on each of several hosts
    bool is_patient_ = false;
};

}  // namespace moesaic::mpi
