#include "model/feed_forward/token_exchange.hpp"

#include "core/trace.hpp"
#include "ops/elementwise.hpp"
#include "ops/row_chunks.hpp"

#include <algorithm>
#include <numeric>

namespace moesaic::model {

using core::bf16;
using core::trace::Scope;

namespace {

index_t sum_of(const std::vector<index_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), index_t{0});
}

template <class S>
std::int64_t bytes_of(index_t rows, index_t cols) {
    return rows * cols * static_cast<std::int64_t>(sizeof(S));
}

/// The chunk's rows of those of this rank [T, cols].
template <class S>
MatrixView<S> rows_of_chunk(MatrixView<S> rows, const RowRoutes& routes) {
    return rows.rows(routes.rows.begin, routes.rows.extent);
}

/// Numbers the rows to be sent, group after group and by token within a group.
void number_rows(MatrixView<const std::int32_t> expert_ids, const std::vector<std::int32_t>& group_of_expert,
                 index_t groups, RowRoutes& routes) {
    routes.place.resize(expert_ids.rows(), groups);
    routes.place.fill(-1);
    const MatrixView<std::int32_t> place = routes.place;
    for (index_t t = 0; t < expert_ids.rows(); ++t) {
        for (const std::int32_t expert : expert_ids.row(t)) {
            place(t, group_of_expert[static_cast<std::size_t>(expert)]) = 0;
        }
    }
    routes.to_group.assign(static_cast<std::size_t>(groups), 0);
    std::int32_t next = 0;
    for (index_t g = 0; g < groups; ++g) {
        const std::int32_t first = next;
        for (index_t t = 0; t < expert_ids.rows(); ++t) {
            if (place(t, g) == 0) {
                place(t, g) = next++;
            }
        }
        routes.to_group[static_cast<std::size_t>(g)] = next - first;
    }
}

}  // namespace

index_t automatic_chunks(bool between_hosts, index_t tokens, index_t experts, index_t experts_per_token) {
    constexpr index_t most = 4;  // the first rows to go and the last ones to return are not hidden: a quarter of all
    const index_t rows_of_expert = tokens * experts_per_token / experts;
    return between_hosts ? std::clamp(rows_of_expert / ops::rows_worth_reading, index_t{1}, most) : 1;
}

void plan_exchange(const Architecture& architecture, const GridPlace& place, bool has_dropout, BlockPlan& plan) {
    using ops::Element;
    using ops::Rows;
    const index_t hidden = architecture.hidden;
    const index_t choices = architecture.experts_per_token;
    const index_t identity = has_dropout ? 1 : 0;
    ops::append({{"exchange.gradient", Rows::own, Element::narrow, hidden, true}}, plan.scratch);
    if (place.expert_ranks * place.tensor_ranks == 1) {
        return;
    }
    ops::append({{"arrived.hidden", Rows::arrived, Element::scalar, hidden},
                 {"arrived.expert_ids", Rows::arrived, Element::int32, choices},
                 {"arrived.weights", Rows::arrived, Element::sum, choices},
                 {"arrived.tokens", Rows::arrived, Element::index, identity}},
                plan.state);
    ops::append({{"exchange.arrived_gradient", Rows::arrived, Element::narrow, hidden},
                 {"exchange.arrived_gradient", Rows::arrived, Element::scalar, hidden, true}},
                plan.exchange);
    if (place.tensor_ranks > 1) {
        const index_t slices = place.tensor_ranks;
        ops::append({{"exchange.results.slice_sums", Rows::received, Element::scalar, slices * hidden},
                     {"exchange.results.summands", Rows::received, Element::index, slices},
                     {"exchange.weight_gradients.slice_sums", Rows::received, Element::sum, slices * choices, true},
                     {"exchange.weight_gradients.summands", Rows::received, Element::index, slices, true}},
                    plan.exchange);
    }
    if (place.expert_ranks > 1) {
        ops::append({{"routes.place", Rows::own, Element::int32, place.expert_ranks}}, plan.state);
        ops::append({{"exchange.packed_hidden", Rows::sent, Element::scalar, hidden},
                     {"exchange.packed_ids", Rows::sent, Element::int32, choices},
                     {"exchange.packed_weights", Rows::sent, Element::sum, choices},
                     {"exchange.packed_tokens", Rows::sent, Element::index, identity},
                     {"exchange.results.summands", Rows::own, Element::index, place.expert_ranks},
                     {"exchange.weight_gradients.summands", Rows::own, Element::index, place.expert_ranks, true},
                     {"exchange.sums", Rows::received, Element::sum, place.tensor_ranks > 1 ? hidden : 0}},
                    plan.exchange);
    }
}

template <class Scalar>
TokenExchange<Scalar>::TokenExchange(const mpi::ProcessGrid& grid, const kernels::KernelSet& kernels, index_t experts,
                                     index_t chunks)
    : expert_(chunks > 1 ? grid.expert().sleeping_waits() : grid.expert()),
      tensor_(chunks > 1 ? grid.tensor().sleeping_waits() : grid.tensor()),
      replica_(grid.replica()),
      kernels_(kernels),
      chunks_(chunks) {
    const int groups = grid.expert().size();
    for (int g = 0; g < groups; ++g) {
        const core::Slice slice = core::slice_of(experts, g, groups);
        group_of_expert_.insert(group_of_expert_.end(), static_cast<std::size_t>(slice.extent), g);
    }
}

template <class Scalar>
std::vector<index_t> TokenExchange<Scalar>::rows_of_ranks(index_t rows) {
    if (expert_.size() > 1) {
        return {};
    }
    volume_.counts += bytes_of<index_t>(1, tensor_.size() - 1);
    return tensor_.all_gather(rows);
}

template <class Scalar>
void TokenExchange<Scalar>::plan(const std::vector<index_t>& rows_of_ranks, MatrixView<const std::int32_t> expert_ids,
                                 std::vector<RowRoutes>& chunks) {
    chunks.resize(static_cast<std::size_t>(chunks_));
    for (index_t c = 0; c < chunks_; ++c) {
        RowRoutes& routes = chunks[static_cast<std::size_t>(c)];
        routes.chunk = c;
        routes.rows = core::slice_of(expert_ids.rows(), c, chunks_);
        routes.of_rank.assign(static_cast<std::size_t>(tensor_.size()), 0);
        std::transform(rows_of_ranks.begin(), rows_of_ranks.end(), routes.of_rank.begin(),
                       [&](index_t rows) { return core::slice_of(rows, c, chunks_).extent; });
    }
    if (expert_.size() > 1) {
        plan_groups(expert_ids, chunks);
    }
    for (RowRoutes& routes : chunks) {
        routes.own = routes.of_rank[static_cast<std::size_t>(tensor_.rank())];
        routes.total = sum_of(routes.of_rank);
    }
}

/// The numbers of rows that go to each group, and come from each. Everybody's are needed: the rows that other ranks of
/// the tensor group receive are gathered, too.
template <class Scalar>
void TokenExchange<Scalar>::plan_groups(MatrixView<const std::int32_t> expert_ids, std::vector<RowRoutes>& chunks) {
    const index_t groups = expert_.size();
    const index_t slices = tensor_.size();
    const index_t ranks = replica_.size();
    Matrix<index_t> mine(chunks_, groups);
    Matrix<index_t> all(ranks * chunks_, groups);
    for (RowRoutes& routes : chunks) {
        number_rows(rows_of_chunk(expert_ids, routes), group_of_expert_, groups, routes);
        std::copy(routes.to_group.begin(), routes.to_group.end(), mine.view()[routes.chunk]);
        routes.from_group.assign(static_cast<std::size_t>(groups), 0);
    }
    replica_.template all_gather_rows<index_t>(mine, all,
                                               std::vector<index_t>(static_cast<std::size_t>(ranks), chunks_));
    volume_.counts += bytes_of<index_t>(chunks_ * groups, ranks - 1);
    for (RowRoutes& routes : chunks) {
        for (index_t rank = 0; rank < ranks; ++rank) {
            const index_t count = all.view()(rank * chunks_ + routes.chunk, expert_.rank());
            routes.of_rank[static_cast<std::size_t>(rank % slices)] += count;
            if (rank % slices == tensor_.rank()) {
                routes.from_group[static_cast<std::size_t>(rank / slices)] = count;
            }
        }
    }
}

/// Rows for each group, in the group's order, change places with those for this rank.
template <class Scalar>
template <class S>
void TokenExchange<Scalar>::exchange(MatrixView<const S> sent, const std::vector<index_t>& to, MatrixView<S> received,
                                     const std::vector<index_t>& from) {
    expert_.template all_to_all_rows<S>(sent, to, received, from);
    const index_t to_others = sent.rows() - to[static_cast<std::size_t>(expert_.rank())];
    volume_.all_to_all += bytes_of<S>(to_others, sent.cols());
}

/// To the rank of every group that has this one's tensor position, and there to all ranks of the group.
template <class Scalar>
template <class S>
MatrixView<const S> TokenExchange<Scalar>::send(const RowRoutes& routes, MatrixView<const S> rows, Matrix<S>& packed,
                                                Matrix<S>& arrived) {
    if (is_alone()) {
        return rows;
    }
    const index_t cols = rows.cols();
    arrived.resize(routes.total, cols);
    MatrixView<const S> own = rows;
    if (expert_.size() > 1) {
        packed.resize(sum_of(routes.to_group), cols);
        const MatrixView<S> out = packed;
        const MatrixView<const std::int32_t> place = routes.place.view();
#pragma omp parallel for schedule(static)
        for (index_t t = 0; t < rows.rows(); ++t) {
            for (const std::int32_t row : place.row(t)) {
                if (row >= 0) {
                    std::copy_n(rows[t], cols, out[row]);
                }
            }
        }
        const auto first = routes.of_rank.begin();
        const index_t before = std::accumulate(first, first + tensor_.rank(), index_t{0});
        const MatrixView<S> received = arrived.view().rows(before, routes.own);
        exchange<S>(packed, routes.to_group, received, routes.from_group);
        own = received;
    }
    tensor_.template all_gather_rows<S>(own, arrived, routes.of_rank);
    volume_.gather += (tensor_.size() - 1) * bytes_of<S>(routes.own, cols);
    return std::as_const(arrived).view();
}

/// Sums over the ranks of the tensor group, of the rows that this rank received, in the order of ranks: the same
/// whatever algorithm a reduction of the MPI library would choose, and narrow values travel.
template <class Scalar>
template <class W>
void TokenExchange<Scalar>::sum_over_slices(const RowRoutes& routes, MatrixView<const Sum> partial,
                                            const Inbound<W>& buffers, MatrixView<Sum> sums) {
    const index_t slices = tensor_.size();
    const index_t cols = partial.cols();
    const auto& row_kernels = kernels_.elementwise<W>();
    buffers.summands.of_slices.resize(slices * routes.own, cols);
    tensor_.template all_to_all_rows<W>(ops::as_operand<W>(row_kernels, partial, buffers.leaving), routes.of_rank,
                                        buffers.summands.of_slices,
                                        std::vector<index_t>(static_cast<std::size_t>(slices), routes.own));
    volume_.reduce += bytes_of<W>(routes.total - routes.own, cols);
    const MatrixView<const W> slice_sums = buffers.summands.of_slices.view();
    buffers.summands.rows.resize(static_cast<std::size_t>(slices * routes.own));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < routes.own; ++row) {
        const W** of_row = buffers.summands.rows.data() + row * slices;
        for (index_t s = 0; s < slices; ++s) {
            of_row[s] = slice_sums[s * routes.own + row];
        }
        row_kernels.sum_rows(cols, slices, of_row, sums[row]);
    }
}

/// Sums what the groups returned for each row, in the order of groups.
template <class Scalar>
template <class W>
void TokenExchange<Scalar>::sum_over_groups(const RowRoutes& routes, const Inbound<W>& buffers,
                                            MatrixView<Sum> output) const {
    const index_t groups = expert_.size();
    const auto& row_kernels = kernels_.elementwise<W>();
    const MatrixView<const W> returned = buffers.returned.view();
    const MatrixView<const std::int32_t> place = routes.place.view();
    buffers.summands.rows.resize(static_cast<std::size_t>(groups * output.rows()));
#pragma omp parallel for schedule(static)
    for (index_t t = 0; t < output.rows(); ++t) {
        const W** of_row = buffers.summands.rows.data() + t * groups;
        index_t count = 0;
        for (const std::int32_t row : place.row(t)) {
            if (row >= 0) {
                of_row[count++] = returned[row];
            }
        }
        row_kernels.sum_rows(output.cols(), count, of_row, output[t]);
    }
}

template <class Scalar>
template <class W>
void TokenExchange<Scalar>::bring_back(const RowRoutes& routes, MatrixView<const Sum> partial,
                                       const Inbound<W>& buffers, MatrixView<Sum> output) {
    const bool one_group = expert_.size() == 1;
    const MatrixView<Sum> mine = rows_of_chunk(output, routes);
    MatrixView<const Sum> sums = partial;
    if (tensor_.size() > 1) {
        sums_.resize(one_group ? 0 : routes.own, partial.cols());
        const MatrixView<Sum> out = one_group ? mine : sums_.view();
        sum_over_slices<W>(routes, partial, buffers, out);
        sums = out;
    } else if (one_group) {
        std::copy_n(partial.data(), partial.rows() * partial.cols(), mine.data());
    }
    if (!one_group) {
        buffers.returned.resize(sum_of(routes.to_group), sums.cols());
        exchange<W>(ops::as_operand<W>(kernels_.elementwise<W>(), sums, buffers.leaving), routes.from_group,
                    buffers.returned, routes.to_group);
        sum_over_groups<W>(routes, buffers, mine);
    }
}

template <class Scalar>
ops::ExpertRows<Scalar> TokenExchange<Scalar>::dispatch(const RowRoutes& routes, const ops::ExpertRows<Scalar>& mine,
                                                        ArrivedRows<Scalar>& arrived) {
    const Scope scope(core::scopes::exchange_dispatch);
    ops::ExpertRows<Scalar> rows;
    rows.hidden = send<Scalar>(routes, rows_of_chunk(mine.hidden, routes), packed_hidden_, arrived.hidden);
    rows.expert_ids =
        send<std::int32_t>(routes, rows_of_chunk(mine.expert_ids, routes), packed_ids_, arrived.expert_ids);
    rows.weights = send<Sum>(routes, rows_of_chunk(mine.weights, routes), packed_weights_, arrived.weights);
    rows.dropout = mine.dropout;
    if (mine.dropout.is_active()) {
        const MatrixView<const std::uint64_t> tokens(mine.dropout.rows.data(), mine.hidden.rows(), 1);
        rows.dropout.rows = {
            send<std::uint64_t>(routes, rows_of_chunk(tokens, routes), packed_tokens_, arrived.tokens).data(),
            static_cast<std::size_t>(routes.total)};
    }
    return rows;
}

template <class Scalar>
MatrixView<const Scalar> TokenExchange<Scalar>::dispatch_gradient(const RowRoutes& routes,
                                                                  MatrixView<const Sum> gradient) {
    const Scope scope(core::scopes::exchange_dispatch_gradient);
    const auto parity = static_cast<std::size_t>(routes.chunk % 2);
    const MatrixView<const Scalar> narrow =
        ops::as_operand<Scalar>(kernels_.elementwise<Scalar>(), rows_of_chunk(gradient, routes), gradient_[parity]);
    return send<Scalar>(routes, narrow, packed_hidden_, arrived_gradient_[parity]);
}

template <class Scalar>
void TokenExchange<Scalar>::combine(const RowRoutes& routes, MatrixView<const Sum> partial, MatrixView<Sum> output) {
    const Scope scope(core::scopes::exchange_combine);
    Matrix<Scalar>& leaving = arrived_gradient_[static_cast<std::size_t>(routes.chunk % 2)];
    bring_back<Scalar>(routes, partial, {leaving, packed_hidden_, results_}, output);
}

template <class Scalar>
void TokenExchange<Scalar>::combine_weights(const RowRoutes& routes, MatrixView<const Sum> partial,
                                            MatrixView<Sum> gradient) {
    const Scope scope(core::scopes::exchange_combine_weights);
    bring_back<Sum>(routes, partial, {leaving_weights_, packed_weights_, weight_gradients_}, gradient);
}

template class TokenExchange<bf16>;
template class TokenExchange<float>;
template class TokenExchange<double>;

}  // namespace moesaic::model
