// Collectives on blocks of rows and of elements, against results computed on one rank.
#include "core/error.hpp"
#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "mpi/communicator.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

namespace moesaic::mpi {
namespace {

using core::bf16;
using core::Matrix;

using Counts = std::vector<index_t>;

index_t total(const Counts& counts) {
    return std::accumulate(counts.begin(), counts.end(), index_t{0});
}

/// Numbers of rows per rank: equal, uneven, zero on the first, on the last, on all but one, and on all ranks.
std::vector<Counts> count_cases(int size) {
    const auto ranks = static_cast<std::size_t>(size);
    std::vector<Counts> cases{Counts(ranks, 3), Counts(ranks),    Counts(ranks, 2),
                              Counts(ranks, 2), Counts(ranks, 0), Counts(ranks, 0)};
    std::iota(cases[1].rbegin(), cases[1].rend(), index_t{0});
    cases[2].front() = 0;
    cases[3].back() = 0;
    cases[4][ranks / 2] = 7;
    return cases;
}

/// Small integers that every type holds exactly and that differ between neighbours.
template <class Scalar>
Scalar element(index_t row, index_t col) {
    const auto value = static_cast<float>((row * 37 + col * 11) % 128 - 50);
    return static_cast<Scalar>(value);
}

template <class Scalar>
Matrix<Scalar> rows_of(index_t first, index_t count, index_t cols) {
    Matrix<Scalar> matrix(count, cols);
    for (index_t row = 0; row < count; ++row) {
        for (index_t col = 0; col < cols; ++col) {
            matrix.view()(row, col) = element<Scalar>(first + row, col);
        }
    }
    return matrix;
}

template <class Scalar>
bool same(Scalar a, Scalar b) {
    return a == b;
}
template <>
bool same(bf16 a, bf16 b) {
    return a.bits() == b.bits();
}

template <class Scalar>
void expect_rows(MatrixView<const Scalar> actual, index_t first) {
    for (index_t row = 0; row < actual.rows(); ++row) {
        for (index_t col = 0; col < actual.cols(); ++col) {
            ASSERT_TRUE(same(actual(row, col), element<Scalar>(first + row, col)))
                << "row " << row << " column " << col;
        }
    }
}

class Rows : public testing::Test {
protected:
    Communicator world_ = Communicator::world();
    /// All ways that rows can go.
    std::vector<Communicator> ways_ = {world_, world_.sleeping_waits(), world_.with_shared_stage()};
    std::size_t rank_ = static_cast<std::size_t>(world_.rank());

    [[nodiscard]] index_t first_row(const Counts& counts) const {
        return std::accumulate(counts.begin(), counts.begin() + world_.rank(), index_t{0});
    }
};

template <class Scalar>
class AllGatherRows : public Rows {};
using GatheredTypes = testing::Types<bf16, float, double, std::int32_t>;
TYPED_TEST_SUITE(AllGatherRows, GatheredTypes);

TYPED_TEST(AllGatherRows, OfAnyShape) {
    for (const Counts& counts : count_cases(this->world_.size())) {
        for (const index_t cols : {0, 1, 5, 7168}) {
            const index_t first = this->first_row(counts);
            const Matrix<TypeParam> mine = rows_of<TypeParam>(first, counts[this->rank_], cols);
            Matrix<TypeParam> all(total(counts), cols);
            for (const Communicator& group : this->ways_) {
                all.fill(element<TypeParam>(-1, -1));
                group.template all_gather_rows<TypeParam>(mine, all, counts);
                expect_rows<TypeParam>(all, 0);
            }
        }
    }
}

TYPED_TEST(AllGatherRows, FromTheirPlaceInTheResult) {
    for (const Counts& counts : count_cases(this->world_.size())) {
        const index_t first = this->first_row(counts);
        for (const index_t cols : {6, 7168}) {
            for (const Communicator& group : this->ways_) {
                Matrix<TypeParam> all(total(counts), cols);
                all.fill(element<TypeParam>(-1, -1));
                const MatrixView<TypeParam> own = all.view().rows(first, counts[this->rank_]);
                for (index_t row = 0; row < own.rows(); ++row) {
                    for (index_t col = 0; col < own.cols(); ++col) {
                        own(row, col) = element<TypeParam>(first + row, col);
                    }
                }
                group.template all_gather_rows<TypeParam>(own, all, counts);
                expect_rows<TypeParam>(all, 0);
            }
        }
    }
}

template <class Scalar>
class ReduceScatterRows : public Rows {};
using SummedTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(ReduceScatterRows, SummedTypes);

TYPED_TEST(ReduceScatterRows, OfAnyShape) {
    const int size = this->world_.size();
    const int sum_of_factors = size * (size + 1) / 2;
    for (const Counts& counts : count_cases(size)) {
        for (const index_t cols : {0, 1, 5, 7168}) {
            Matrix<TypeParam> all = rows_of<TypeParam>(0, total(counts), cols);
            for (TypeParam& value : all.flat()) {
                value *= static_cast<TypeParam>(this->world_.rank() + 1);
            }
            for (const Communicator& group : this->ways_) {
                Matrix<TypeParam> mine(counts[this->rank_], cols);
                mine.fill(-1);
                group.template reduce_scatter_rows<TypeParam>(all, mine, counts);
                for (TypeParam& value : mine.flat()) {
                    value /= static_cast<TypeParam>(sum_of_factors);
                }
                expect_rows<TypeParam>(mine, this->first_row(counts));
            }
        }
    }
}

TYPED_TEST(ReduceScatterRows, LeavesItsInputAlone) {
    const Counts counts(static_cast<std::size_t>(this->world_.size()), 40);
    const Matrix<TypeParam> all = rows_of<TypeParam>(0, total(counts), 300);
    Matrix<TypeParam> mine(40, 300);
    for (const Communicator& group : this->ways_) {
        group.template reduce_scatter_rows<TypeParam>(all, mine, counts);
        expect_rows<TypeParam>(all, 0);
    }
}

template <class Scalar>
class AllToAllRows : public Rows {};
using ExchangedTypes = testing::Types<bf16, float, double, std::int32_t>;
TYPED_TEST_SUITE(AllToAllRows, ExchangedTypes);

/// From rank s to rank r go (s + 2 r) % 4 rows, some of them none; row i of these is row 100 s + 10 r + i of all.
TYPED_TEST(AllToAllRows, BlocksArriveInTheOrderOfRanks) {
    const index_t size = this->world_.size();
    const index_t rank = this->world_.rank();
    const auto number = [](index_t source, index_t target) { return (source + 2 * target) % 4; };
    for (const index_t cols : {1, 5, 7168}) {
        Counts to;
        Counts from;
        for (index_t r = 0; r < size; ++r) {
            to.push_back(number(rank, r));
            from.push_back(number(r, rank));
        }
        Matrix<TypeParam> sent(total(to), cols);
        for (index_t r = 0, row = 0; r < size; ++r) {
            for (index_t i = 0; i < number(rank, r); ++i, ++row) {
                std::copy_n(rows_of<TypeParam>(100 * rank + 10 * r + i, 1, cols).data(), cols, sent.view()[row]);
            }
        }
        for (const Communicator& group : this->ways_) {
            Matrix<TypeParam> received(total(from), cols);
            received.fill(element<TypeParam>(-1, -1));
            group.template all_to_all_rows<TypeParam>(sent, to, received, from);
            index_t first = 0;
            for (index_t s = 0; s < size; ++s) {
                const MatrixView<const TypeParam> block =
                    std::as_const(received).view().rows(first, from[static_cast<std::size_t>(s)]);
                expect_rows<TypeParam>(block, 100 * s + 10 * rank);
                first += block.rows();
            }
        }
    }
}

/// Many steps, in groups that take turns with the same memory: no rank may overwrite what another has not read yet.
TEST_F(Rows, ThroughTheStageGroupsDontDisturbEachOther) {
    constexpr index_t cols = 4096;  // of FP32: 300 rows take several steps
    const Communicator world = world_.with_shared_stage();
    const Communicator half = world.split(world.rank() % 2, world.rank());
    for (int turn = 0; turn < 5; ++turn) {
        for (const Communicator& group : {world, half}) {
            const Counts counts(static_cast<std::size_t>(group.size()), 300 + turn);
            const index_t first = group.rank() * counts.front();
            const Matrix<float> mine = rows_of<float>(first, counts.front(), cols);
            Matrix<float> all(total(counts), cols);
            group.all_gather_rows<float>(mine, all, counts);
            expect_rows<float>(all, 0);
            Matrix<float> sums(counts.front(), cols);
            group.reduce_scatter_rows<float>(all, sums, counts);
            for (float& value : sums.flat()) {
                value /= static_cast<float>(group.size());
            }
            expect_rows<float>(sums, first);
            Matrix<float> received(total(counts), cols);
            group.all_to_all_rows<float>(all, counts, received, counts);
            for (index_t r = 0; r < group.size(); ++r) {
                expect_rows<float>(std::as_const(received).view().rows(r * counts.front(), counts.front()), first);
            }
        }
    }
}

template <class Scalar>
class GatherBlocks : public Rows {};
TYPED_TEST_SUITE(GatherBlocks, SummedTypes);

TYPED_TEST(GatherBlocks, OfAnyLength) {
    for (Counts counts : count_cases(this->world_.size())) {
        for (index_t& count : counts) {
            count *= 2111;  // past the eager limit of MPI libraries
        }
        const Matrix<TypeParam> mine = rows_of<TypeParam>(this->first_row(counts), counts[this->rank_], 1);
        Matrix<TypeParam> all(this->world_.is_root() ? total(counts) : 0, 1);
        this->world_.template gather_blocks<TypeParam>(mine.flat(), all.flat(), counts);
        expect_rows<TypeParam>(all, 0);
    }
}

TEST_F(Rows, ShapesThatDisagreeAreRefused) {
    Counts counts(static_cast<std::size_t>(world_.size()), 2);
    const Matrix<float> mine(2, 4);
    Matrix<float> all(total(counts), 4);
    Matrix<float> short_by_a_row(total(counts) - 1, 4);
    Matrix<float> narrow(total(counts), 3);
    const Matrix<float> wide(2, 8);
    EXPECT_THROW(world_.all_gather_rows<float>(mine, short_by_a_row, counts), core::Error);
    EXPECT_THROW(world_.all_gather_rows<float>(mine, narrow, counts), core::Error);
    EXPECT_THROW(world_.all_gather_rows<float>(wide.view().columns(0, 4), all, counts), core::Error);
    EXPECT_THROW(world_.gather_blocks<float>(mine.flat(), all.flat(), counts), core::Error);
    EXPECT_THROW(world_.all_to_all_rows<float>(short_by_a_row, counts, all, counts), core::Error);
    EXPECT_THROW(world_.all_to_all_rows<float>(all, counts, narrow, counts), core::Error);
    counts.push_back(0);
    EXPECT_THROW(world_.all_gather_rows<float>(mine, all, counts), core::Error);
}

}  // namespace
}  // namespace moesaic::mpi
