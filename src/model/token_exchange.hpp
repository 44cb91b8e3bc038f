// Token rows on their way to the ranks that hold their experts, and back.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/dropout.hpp"
#include "mpi/process_grid.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// Where the rows of a chunk, or of a whole pass, through one MoE layer go. A row is sent once to each tensor group
/// that holds at least one of its experts.
struct RowRoutes {
    index_t chunk = 0;                ///< which of the pass
    mpi::Slice rows;                  ///< of this rank's rows
    Matrix<std::int32_t> place;       ///< [rows, groups]: which of the rows sent it is, or -1; no columns in one group
    std::vector<index_t> to_group;    ///< [groups] rows that this rank sends
    std::vector<index_t> from_group;  ///< [groups] rows that it receives
    std::vector<index_t> of_rank;     ///< [tensor ranks] rows that the ranks of its tensor group receive
    index_t own = 0;                  ///< rows received by this rank
    index_t total = 0;                ///< by its tensor group: N
};

/// Rows that a rank's experts compute. Views are valid until the rows of the second next chunk arrive.
template <class T>
struct ExpertRows {
    MatrixView<const T> hidden;                  // [N, H]
    MatrixView<const std::int32_t> expert_ids;   // [N, K], some of them of other groups
    MatrixView<const accumulator_t<T>> weights;  // [N, K]
    Dropout dropout;
};

/// Bytes that a rank sent to other ranks; docs/architecture.md has the formula.
struct ExchangeVolume {
    std::int64_t counts = 0;      ///< numbers of rows, before they are sent
    std::int64_t all_to_all = 0;  ///< between tensor groups
    std::int64_t gather = 0;      ///< within the tensor group
    std::int64_t reduce = 0;      ///< partial sums within the tensor group

    [[nodiscard]] std::int64_t total() const noexcept { return counts + all_to_all + gather + reduce; }
};

/// How many chunks the rows of a replica's passes, at most `tokens` of them, travel in, so that the experts compute one
/// while others travel. Each chunk reads all weights again: an expert must get enough rows to make up for that. Where
/// no rows travel between hosts there is one chunk: copies in memory would only compete with the experts.
[[nodiscard]] index_t automatic_chunks(const mpi::ProcessGrid& grid, index_t tokens, index_t experts,
                                       index_t experts_per_token);

/// Brings rows to experts and results back, for all layers of a decoder. Every collective takes place in every layer
/// and chunk on all ranks of a replica, whatever the routing; only its counts depend on that, and they are agreed on
/// before. On the wire values have type T; sums are of the accumulator's type and in a fixed order. Of one chunk the
/// next call may begin while the experts still use the rows that arrived. T: bf16, float or double.
template <class T>
class TokenExchange {
public:
    using A = accumulator_t<T>;

    /// Rows travel in so many chunks. `kernels` must outlive the object.
    TokenExchange(const mpi::ProcessGrid& grid, const kernels::KernelSet& kernels, index_t experts, index_t chunks = 1);

    /// Collective over the tensor group. Begins a pass in which this rank has so many rows. Their identities in
    /// `dropout`, if it is active, must stay until the pass ends.
    void begin_pass(index_t rows, const Dropout& dropout);
    /// Collective over the replica. Where rows with these experts [T, K] go: the routes of every chunk.
    void plan(MatrixView<const std::int32_t> expert_ids, std::vector<RowRoutes>& chunks);

    /// Collective over the replica. Of this rank's rows [T, H] with their choices [T, K] those of a chunk go to their
    /// experts.
    ExpertRows<T> dispatch(const RowRoutes& routes, MatrixView<const T> hidden,
                           MatrixView<const std::int32_t> expert_ids, MatrixView<const A> weights);
    /// Collective over the replica. Output gradients [T, H] follow their rows: [N, H], valid as ExpertRows are.
    MatrixView<const T> dispatch_gradient(const RowRoutes& routes, MatrixView<const A> gradient);
    /// Collective over the replica. Each rank has computed a part of the result of each row, partial [N, H]; their sums
    /// return to the rows' owners: the chunk's rows of output [T, H].
    void combine(const RowRoutes& routes, MatrixView<const A> partial, MatrixView<A> output);
    /// Collective over the replica. The same for gradients of routing weights, [N, K] to [T, K], at full precision.
    void combine_weights(const RowRoutes& routes, MatrixView<const A> partial, MatrixView<A> gradient);

    [[nodiscard]] index_t chunks() const noexcept { return chunks_; }
    /// Of all passes so far.
    [[nodiscard]] const ExchangeVolume& volume() const noexcept { return volume_; }

private:
    /// Rows of one kind on their way to experts.
    template <class S>
    struct Outbound {
        Matrix<S> packed;                  // rows sent, by group
        std::array<Matrix<S>, 2> arrived;  // [N, cols] of even and odd chunks: one is computed while the other arrives
    };
    /// Results of one kind on their way back.
    template <class W>
    struct Inbound {
        Matrix<W> narrow;    // sums as they are sent
        Matrix<W> parts;     // [tensor ranks * own, cols]
        Matrix<W> returned;  // [rows sent, cols]
        std::vector<const W*> summands;
    };

    void plan_groups(MatrixView<const std::int32_t> expert_ids, std::vector<RowRoutes>& chunks);
    template <class S>
    MatrixView<const S> send(const RowRoutes& routes, MatrixView<const S> rows, Outbound<S>& buffers);
    template <class W>
    void bring_back(const RowRoutes& routes, MatrixView<const A> partial, Inbound<W>& buffers, MatrixView<A> output);
    template <class W>
    void sum_over_slices(const RowRoutes& routes, MatrixView<const A> partial, Inbound<W>& buffers, MatrixView<A> sums);
    template <class W>
    void sum_over_groups(const RowRoutes& routes, Inbound<W>& buffers, MatrixView<A> output) const;
    template <class S>
    void exchange(MatrixView<const S> sent, const std::vector<index_t>& to, MatrixView<S> received,
                  const std::vector<index_t>& from);

    mpi::Communicator expert_;
    mpi::Communicator tensor_;
    mpi::Communicator replica_;
    const kernels::KernelSet& kernels_;
    index_t chunks_;
    std::vector<std::int32_t> group_of_expert_;  // [E]
    std::vector<index_t> rows_of_rank_;          // [tensor ranks] of the pass, if there is one group
    Dropout dropout_;
    Outbound<T> hidden_;
    Outbound<std::int32_t> expert_ids_;
    Outbound<A> weights_;
    Outbound<std::uint64_t> tokens_;
    Matrix<T> gradient_;  // [T, H]
    Inbound<T> results_;
    Inbound<A> weight_gradients_;
    Matrix<A> sums_;  // [own, cols]
    ExchangeVolume volume_;
};

}  // namespace moesaic::model
