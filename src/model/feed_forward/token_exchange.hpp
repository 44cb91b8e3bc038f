// Token rows on their way to the ranks that hold their experts, and back.
#pragma once

#include "core/slice.hpp"
#include "kernels/kernel_set.hpp"
#include "model/layer_plan.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_workspace.hpp"

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
    core::Slice rows;                 ///< of this rank's rows
    Matrix<std::int32_t> place;       ///< [rows, groups]: which of the rows sent it is, or -1; no columns in one group
    std::vector<index_t> to_group;    ///< [groups] rows that this rank sends
    std::vector<index_t> from_group;  ///< [groups] rows that it receives
    std::vector<index_t> of_rank;     ///< [tensor ranks] rows that the ranks of its tensor group receive
    index_t own = 0;                  ///< rows received by this rank
    index_t total = 0;                ///< by its tensor group: N
};

/// Rows that came from other ranks, kept as long as experts need them. A single rank has its own instead.
template <class Scalar>
struct ArrivedRows {
    Matrix<Scalar> hidden;                  // [N, H]
    Matrix<std::int32_t> expert_ids;        // [N, K], some of them of other groups
    Matrix<accumulator_t<Scalar>> weights;  // [N, K]
    Matrix<std::uint64_t> tokens;           // [N, 1] with dropout
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
[[nodiscard]] index_t automatic_chunks(bool between_hosts, index_t tokens, index_t experts, index_t experts_per_token);

/// Adds ArrivedRows and the routes to the state of a plan, and the buffers of TokenExchange to its work buffers. With
/// several chunks these are smaller.
void plan_exchange(const Architecture& architecture, const GridPlace& place, bool has_dropout, BlockPlan& plan);

/// Brings rows to experts and results back, for all layers of a decoder. Every collective takes place in every layer
/// and chunk on all ranks of a replica, whatever the routing; only its counts depend on that, and they are agreed on
/// before. On the wire values have type Scalar; sums are of the accumulator's type and in a fixed order. Rows of one
/// rank alone stay where they are. Scalar: bf16, float or double.
template <class Scalar>
class TokenExchange {
public:
    using Sum = accumulator_t<Scalar>;

    /// Rows travel in so many chunks. `kernels` must outlive the object.
    TokenExchange(const mpi::ProcessGrid& grid, const kernels::KernelSet& kernels, index_t experts, index_t chunks = 1);

    /// Collective over the tensor group. The rows that its ranks have in a pass, of which this one has `rows`; nothing
    /// where there are several groups, whose numbers depend on the routing.
    [[nodiscard]] std::vector<index_t> rows_of_ranks(index_t rows);
    /// Collective over the replica. Where rows with these experts [T, K] go: the routes of every chunk.
    void plan(const std::vector<index_t>& rows_of_ranks, MatrixView<const std::int32_t> expert_ids,
              std::vector<RowRoutes>& chunks);

    /// Collective over the replica. Of this rank's rows those of a chunk go to their experts. The rows for the experts
    /// of this rank are in `arrived`, or they are views of `mine`, which must stay as long.
    ops::ExpertRows<Scalar> dispatch(const RowRoutes& routes, const ops::ExpertRows<Scalar>& mine,
                                     ArrivedRows<Scalar>& arrived);
    /// Collective over the replica. Output gradients [T, H] follow their rows: [N, H], valid until results of this
    /// chunk are combined or the gradient of the second next one arrives.
    MatrixView<const Scalar> dispatch_gradient(const RowRoutes& routes, MatrixView<const Sum> gradient);
    /// Collective over the replica. Each rank has computed a part of the result of each row, partial [N, H]; their sums
    /// return to the rows' owners: the chunk's rows of output [T, H].
    void combine(const RowRoutes& routes, MatrixView<const Sum> partial, MatrixView<Sum> output);
    /// Collective over the replica. The same for gradients of routing weights, [N, K] to [T, K], at full precision.
    void combine_weights(const RowRoutes& routes, MatrixView<const Sum> partial, MatrixView<Sum> gradient);

    /// True if no row travels: there is one group, of one rank.
    [[nodiscard]] bool is_alone() const { return expert_.size() == 1 && tensor_.size() == 1; }
    [[nodiscard]] index_t chunks() const noexcept { return chunks_; }
    /// Of all passes so far.
    [[nodiscard]] const ExchangeVolume& volume() const noexcept { return volume_; }

private:
    /// Results of one kind that are summed.
    template <class W>
    struct Summands {
        Matrix<W> of_slices;         // [tensor ranks * own, cols]: those of every slice of the experts
        std::vector<const W*> rows;  // of one sum after the other
    };
    /// Results on their way back. They take the places that rows had on their way out.
    template <class W>
    struct Inbound {
        Matrix<W>& leaving;   // [N, cols] as they are sent
        Matrix<W>& returned;  // [rows sent, cols]
        Summands<W>& summands;
    };

    void plan_groups(MatrixView<const std::int32_t> expert_ids, std::vector<RowRoutes>& chunks);
    /// One rank has all experts whole.
    template <class S>
    MatrixView<const S> send(const RowRoutes& routes, MatrixView<const S> rows, Matrix<S>& packed, Matrix<S>& arrived);
    template <class W>
    void bring_back(const RowRoutes& routes, MatrixView<const Sum> partial, const Inbound<W>& buffers,
                    MatrixView<Sum> output);
    template <class W>
    void sum_over_slices(const RowRoutes& routes, MatrixView<const Sum> partial, const Inbound<W>& buffers,
                         MatrixView<Sum> sums);
    template <class W>
    void sum_over_groups(const RowRoutes& routes, const Inbound<W>& buffers, MatrixView<Sum> output) const;
    template <class S>
    void exchange(MatrixView<const S> sent, const std::vector<index_t>& to, MatrixView<S> received,
                  const std::vector<index_t>& from);

    mpi::Communicator expert_;
    mpi::Communicator tensor_;
    mpi::Communicator replica_;
    const kernels::KernelSet& kernels_;
    index_t chunks_;
    std::vector<std::int32_t> group_of_expert_;  // [E]
    Matrix<Scalar> packed_hidden_;               // rows sent, by group; results come back here
    Matrix<std::int32_t> packed_ids_;
    Matrix<Sum> packed_weights_;
    Matrix<std::uint64_t> packed_tokens_;
    std::array<Matrix<Scalar>, 2> gradient_;  // [T, H] of even and odd chunks: one is computed while the other goes
    std::array<Matrix<Scalar>, 2> arrived_gradient_;  // [N, H] the same; results leave from here
    Summands<Scalar> results_;
    Summands<Sum> weight_gradients_;
    Matrix<Sum> leaving_weights_;  // stays empty: they are of the type that is sent
    Matrix<Sum> sums_;             // [own, cols]
    ExchangeVolume volume_;
};

}  // namespace moesaic::model
