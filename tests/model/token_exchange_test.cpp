// Rows on their way to experts and back: results, and the bytes that this takes.
#include "model/feed_forward/token_exchange.hpp"

#include "support/grids.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace moesaic::model {
namespace {

constexpr index_t experts = 7;  // no number of groups but 1 divides it
constexpr index_t choices = 3;
constexpr index_t hidden = 5;

/// Rows of one rank with their choices.
struct Inputs {
    explicit Inputs(index_t rows) : values(rows, hidden), expert_ids(rows, choices), weights(rows, choices) {}

    Matrix<double> values;
    Matrix<std::int32_t> expert_ids;
    Matrix<double> weights;
    std::vector<std::uint64_t> tokens;
};

/// Rank r has (r + 1) % 3 + `more` rows. Choices are spread over experts, or all rows make the same.
Inputs inputs_of(index_t rank, index_t more, bool spread) {
    Inputs inputs((rank + 1) % 3 + more);
    const auto seed = static_cast<std::uint64_t>(rank);
    test::fill_random(inputs.values.view(), seed);
    test::fill_random(inputs.weights.view(), 50 + seed);
    for (index_t t = 0; t < inputs.values.rows(); ++t) {
        for (index_t k = 0; k < choices; ++k) {
            inputs.expert_ids.view()(t, k) = static_cast<std::int32_t>(spread ? (3 * rank + t + 2 * k) % experts : k);
        }
        inputs.tokens.push_back(static_cast<std::uint64_t>(1000 * rank + t));
    }
    return inputs;
}

Matrix<double> copy_of(MatrixView<const double> rows) {
    Matrix<double> copy(rows.rows(), rows.cols());
    std::copy_n(rows.data(), copy.size(), copy.data());
    return copy;
}

/// What an expert adds to a row's result, per unit of its routing weight.
double result_of(double value, std::int32_t expert, std::uint64_t token) {
    return value * (expert + 2) + 0.001 * static_cast<double>(token);
}

/// What this rank's experts would compute of each row: an equal share for every slice.
struct Partial {
    Matrix<double> output;
    Matrix<double> weights;
};

Partial compute(const ops::ExpertRows<double>& rows, const mpi::ProcessGrid& grid) {
    const core::Slice mine = core::slice_of(experts, grid.expert().rank(), grid.expert().size());
    const double share = 1.0 / grid.tensor().size();
    Partial partial = {Matrix<double>(rows.hidden.rows(), hidden), Matrix<double>(rows.hidden.rows(), choices)};
    partial.output.fill(0);
    partial.weights.fill(0);
    for (index_t t = 0; t < rows.hidden.rows(); ++t) {
        for (index_t k = 0; k < choices; ++k) {
            const std::int32_t expert = rows.expert_ids(t, k);
            if (!mine.contains(expert)) {
                continue;
            }
            for (index_t h = 0; h < hidden; ++h) {
                partial.output.view()(t, h) +=
                    share * rows.weights(t, k) *
                    result_of(rows.hidden(t, h), expert, rows.dropout.rows[static_cast<std::size_t>(t)]);
            }
            partial.weights.view()(t, k) = share * rows.weights(t, k) * expert;
        }
    }
    return partial;
}

void expect_results(const Inputs& inputs, MatrixView<const double> output, MatrixView<const double> weights) {
    for (index_t t = 0; t < output.rows(); ++t) {
        for (index_t h = 0; h < hidden; ++h) {
            double expected = 0;
            for (index_t k = 0; k < choices; ++k) {
                expected +=
                    inputs.weights.view()(t, k) * result_of(inputs.values.view()(t, h), inputs.expert_ids.view()(t, k),
                                                            inputs.tokens[static_cast<std::size_t>(t)]);
            }
            ASSERT_NEAR(output(t, h), expected, 1e-12);
        }
        for (index_t k = 0; k < choices; ++k) {
            ASSERT_NEAR(weights(t, k), inputs.weights.view()(t, k) * inputs.expert_ids.view()(t, k), 1e-12);
        }
    }
}

void go_there_and_back(TokenExchange<double>& exchange, const mpi::ProcessGrid& grid, const Inputs& inputs) {
    std::vector<RowRoutes> chunks;
    exchange.plan(exchange.rows_of_ranks(inputs.values.rows()), inputs.expert_ids, chunks);
    ASSERT_EQ(std::ssize(chunks), exchange.chunks());
    std::vector<ArrivedRows<double>> arrived(chunks.size());
    const ops::ExpertRows<double> mine = {
        inputs.values, inputs.expert_ids, inputs.weights, {.probability = 0.1, .rows = inputs.tokens}};
    Matrix<double> output(inputs.values.rows(), hidden);
    Matrix<double> weights(inputs.values.rows(), choices);
    const auto bring = [&](const RowRoutes& chunk) {
        return exchange.dispatch(chunk, mine, arrived[static_cast<std::size_t>(chunk.chunk)]);
    };
    ops::ExpertRows<double> rows = bring(chunks[0]);
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        // The next chunk arrives while this one is computed.
        const ops::ExpertRows<double> next = c + 1 < chunks.size() ? bring(chunks[c + 1]) : ops::ExpertRows<double>();
        const Partial partial = compute(rows, grid);
        exchange.combine(chunks[c], partial.output, output);
        exchange.combine_weights(chunks[c], partial.weights, weights);
        rows = next;
    }
    expect_results(inputs, output, weights);
    for (const RowRoutes& chunk :
         chunks) {  // gradients follow their rows: as hidden states they arrive where those did
        const Matrix<double> there = copy_of(bring(chunk).hidden);
        const MatrixView<const double> gradient = exchange.dispatch_gradient(chunk, inputs.values);
        ASSERT_EQ(gradient.rows(), there.rows());
        for (index_t t = 0; t < gradient.rows(); ++t) {
            EXPECT_EQ(gradient(t, 0), there.view()(t, 0));
        }
    }
}

TEST(TokenExchange, RowsReachTheirExpertsAndResultsTheirOwners) {
    const mpi::Communicator world = mpi::Communicator::world();
    const kernels::KernelSet kernels("portable");
    for (const mpi::GridShape& shape : test::grids_of(world.size())) {
        SCOPED_TRACE(describe(shape));
        const mpi::ProcessGrid grid(world, shape);
        for (const index_t chunks : {1, 3}) {
            TokenExchange<double> exchange(grid, kernels, experts, chunks);
            for (const bool spread : {true, false}) {
                for (const index_t more : {6, 0}) {
                    go_there_and_back(exchange, grid, inputs_of(world.rank(), more, spread));
                }
            }
        }
    }
}

/// Rows of a rank with at least one expert in a group.
index_t rows_to_group(index_t rank, index_t group, index_t groups) {
    const core::Slice slice = core::slice_of(experts, group, groups);
    const Inputs inputs = inputs_of(rank, 6, true);
    index_t rows = 0;
    for (index_t t = 0; t < inputs.values.rows(); ++t) {
        const auto ids = inputs.expert_ids.view().row(t);
        rows += std::any_of(ids.begin(), ids.end(), [&](std::int32_t e) { return slice.contains(e); }) ? 1 : 0;
    }
    return rows;
}

/// The formula of docs/architecture.md for one layer, forward and backward.
ExchangeVolume formula(const mpi::GridShape& shape, index_t chunks, index_t rank, index_t row_bytes,
                       index_t weight_bytes) {
    const index_t groups = shape.expert;
    const index_t slices = shape.tensor;
    const index_t group = rank / slices % groups;
    const index_t first_of_replica = rank - rank % (groups * slices);
    const auto received = [&](index_t position) {
        index_t rows = 0;
        for (index_t g = 0; g < groups; ++g) {
            rows += rows_to_group(first_of_replica + g * slices + position, group, groups);
        }
        return rows;
    };
    index_t to_others = 0;
    for (index_t g = 0; g < groups; ++g) {
        to_others += g == group ? 0 : rows_to_group(rank, g, groups);
    }
    index_t others_received = 0;
    for (index_t position = 0; position < slices; ++position) {
        others_received += position == rank % slices ? 0 : received(position);
    }
    const index_t own = received(rank % slices);
    const index_t out = 2 * row_bytes + choices * (4 + weight_bytes);
    const index_t back = 2 * row_bytes + choices * weight_bytes;
    return {.counts = groups == 1 ? 8 * (slices - 1) : 8 * chunks * groups * (groups * slices - 1),
            .all_to_all = to_others * out + (own - rows_to_group(rank, group, groups)) * back,
            .gather = (slices - 1) * own * out,
            .reduce = others_received * back};
}

template <class Scalar>
class ExchangeBytes : public testing::Test {};
using ActivationTypes = testing::Types<core::bf16, float>;
TYPED_TEST_SUITE(ExchangeBytes, ActivationTypes);

TYPED_TEST(ExchangeBytes, AreThoseOfTheFormula) {
    const mpi::Communicator world = mpi::Communicator::world();
    const kernels::KernelSet kernels("portable");
    const index_t chunks = 2;
    for (const mpi::GridShape& shape : test::grids_of(world.size())) {
        SCOPED_TRACE(describe(shape));
        const Inputs inputs = inputs_of(world.rank(), 6, true);
        const index_t rows = inputs.values.rows();
        const auto values = test::random_matrix<TypeParam>(rows, hidden, 1);
        const auto weights = test::random_matrix<float>(rows, choices, 2);
        TokenExchange<TypeParam> exchange(mpi::ProcessGrid(world, shape), kernels, experts, chunks);
        std::vector<RowRoutes> routes;
        exchange.plan(exchange.rows_of_ranks(rows), inputs.expert_ids, routes);
        Matrix<float> output(rows, hidden);
        Matrix<float> grad_weights(rows, choices);
        for (const RowRoutes& chunk : routes) {
            ArrivedRows<TypeParam> rows_there;
            const index_t arrived =
                exchange.dispatch(chunk, {values, inputs.expert_ids, weights, {}}, rows_there).hidden.rows();
            const auto partial = test::random_matrix<float>(arrived, hidden, 3);
            const auto partial_weights = test::random_matrix<float>(arrived, choices, 4);
            exchange.combine(chunk, partial, output);
            static_cast<void>(exchange.dispatch_gradient(chunk, output));
            exchange.combine(chunk, partial, output);
            exchange.combine_weights(chunk, partial_weights, grad_weights);
        }
        const ExchangeVolume expected =
            formula(shape, chunks, world.rank(), hidden * static_cast<index_t>(sizeof(TypeParam)), sizeof(float));
        EXPECT_EQ(exchange.volume().counts, expected.counts);
        EXPECT_EQ(exchange.volume().all_to_all, expected.all_to_all);
        EXPECT_EQ(exchange.volume().gather, expected.gather);
        EXPECT_EQ(exchange.volume().reduce, expected.reduce);
    }
}

}  // namespace
}  // namespace moesaic::model
