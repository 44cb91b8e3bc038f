// Collectives on row blocks.
#include "mpi/communicator_handle.hpp"
#include "mpi/host_stage.hpp"
#include "mpi/transfer_sizes.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>

namespace moesaic::mpi {

namespace {

/// One row of `cols` elements as a datatype, so that counts and displacements are numbers of rows.
class RowType {
public:
    RowType(MPI_Datatype element, index_t cols, const char* operation) {
        check(MPI_Type_contiguous(make_blocks(std::array{cols}, 1, operation).counts[0], element, &type_),
              "MPI_Type_contiguous");
        check(MPI_Type_commit(&type_), "MPI_Type_commit");
    }
    ~RowType() { MPI_Type_free(&type_); }
    RowType(const RowType&) = delete;
    RowType& operator=(const RowType&) = delete;
    [[nodiscard]] MPI_Datatype get() const noexcept { return type_; }

private:
    MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// Of patient collectives: short beside a transfer between hosts.
constexpr std::chrono::microseconds nap(20);

/// Checks what the caller promised about [sum(counts), cols] against [counts[rank], cols].
template <class A, class B>
void check_rows(const char* operation, MatrixView<A> mine, MatrixView<B> all, std::span<const index_t> counts, int rank,
                int size) {
    const bool complete = std::ssize(counts) == size;
    const index_t announced = complete ? counts[static_cast<std::size_t>(rank)] : -1;
    const index_t total = std::accumulate(counts.begin(), counts.end(), index_t{0});
    core::require(
        complete && mine.rows() == announced && all.rows() == total, ExitCode::runtime_failure,
        "{}: shapes disagree (rank {} of {} has {} rows and announced {}; all have {} rows and announced {} in "
        "{} counts); this is a defect of the caller",
        operation, rank, size, mine.rows(), announced, all.rows(), total, counts.size());
    core::require(mine.rows() == 0 || mine.cols() == all.cols(), ExitCode::runtime_failure,
                  "{}: widths disagree ({} and {} columns); this is a defect of the caller", operation, mine.cols(),
                  all.cols());
    core::require((mine.rows() <= 1 || mine.stride() == mine.cols()) && (all.rows() <= 1 || all.stride() == all.cols()),
                  ExitCode::runtime_failure, "{}: rows are not contiguous (strides {} and {}, {} columns); copy them",
                  operation, mine.stride(), all.stride(), all.cols());
}

/// Checks what the caller promised about [sum(counts), cols] of an exchange with all ranks.
template <class T>
void check_blocks(const char* operation, MatrixView<T> view, std::span<const index_t> counts, index_t cols, int size) {
    const index_t total = std::accumulate(counts.begin(), counts.end(), index_t{0});
    core::require(std::ssize(counts) == size && view.rows() == total && (total == 0 || view.cols() == cols) &&
                      (total <= 1 || view.stride() == cols),
                  ExitCode::runtime_failure,
                  "{}: shapes disagree ([{}, {}] with stride {} for {} rows of {} columns in {} blocks, of {} ranks); "
                  "this is a defect of the caller",
                  operation, view.rows(), view.cols(), view.stride(), total, cols, counts.size(), size);
}

template <class T>
auto* as_bytes(MatrixView<T> rows) {
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    return reinterpret_cast<Byte*>(rows.data());
}

template <class T>
std::size_t bytes_of_row(MatrixView<T> rows) {
    return static_cast<std::size_t>(rows.cols()) * sizeof(T);
}

/// Blocks of rows, of so many each, that lie behind each other from `first` on.
template <class Byte>
Pieces<Byte> blocks_from(Byte* first, std::span<const index_t> counts, std::size_t row_bytes) {
    Pieces<Byte> blocks;
    for (const index_t count : counts) {
        blocks.emplace_back(first, static_cast<std::size_t>(count) * row_bytes);
        first += blocks.back().size();
    }
    return blocks;
}

template <class Byte>
std::vector<Pieces<Byte>> each_alone(const Pieces<Byte>& blocks) {
    std::vector<Pieces<Byte>> lists;
    for (const std::span<Byte>& block : blocks) {
        lists.push_back({block});
    }
    return lists;
}

template <class T>
std::int64_t largest_block(std::span<const index_t> counts, index_t cols) {
    return *std::max_element(counts.begin(), counts.end()) * cols * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace

bool Communicator::is_worth_staging(std::int64_t largest_block) const {
    return largest_block >= static_cast<std::int64_t>(StagedGroup::least_bytes) && !is_patient_;
}

template <class T>
void Communicator::all_gather_rows(MatrixView<const T> mine, MatrixView<T> all, std::span<const index_t> counts) const {
    const char* const name = core::scopes::mpi_all_gather_rows.name;
    const Call call(*this, core::scopes::mpi_all_gather_rows, bytes_of(mine), true);
    check_rows(name, mine, all, counts, rank(), size());
    const Blocks blocks = make_blocks(counts, 1, name);
    if (all.empty()) {
        return;
    }
    const auto own = static_cast<std::size_t>(rank());
    T* const place = all.data() + blocks.offsets[own] * all.cols();
    const bool in_place = mine.data() == place;
    const bool by_rails = rails_ != nullptr && is_worth_staging(largest_block<T>(counts, all.cols()));
    if (!in_place && (size() == 1 || by_rails)) {
        std::copy_n(mine.data(), mine.rows() * mine.cols(), place);
    }
    if (size() == 1) {
        return;
    }
    const RowType row(datatype<T>(), all.cols(), name);
    if (by_rails) {
        const Blocks of_rail = {rails_->of_rail<int>(blocks.counts), rails_->of_rail<int>(blocks.offsets)};
        check(MPI_Allgatherv(MPI_IN_PLACE, 0, row.get(), all.data(), of_rail.counts.data(), of_rail.offsets.data(),
                             row.get(), rails_->rail.handle_->comm),
              "MPI_Allgatherv");
        const auto parts = rails_->of_rails(blocks_from(as_bytes(all), counts, bytes_of_row(all)));
        const Pieces<std::byte>& rail = parts[static_cast<std::size_t>(rails_->host.rank())];
        rails_->host.staged_->all_gather({rail.begin(), rail.end()}, parts);
        return;
    }
    if (staged_ != nullptr && is_worth_staging(largest_block<T>(counts, all.cols()))) {
        staged_->all_gather(
            {std::as_bytes(std::span(mine.data(), static_cast<std::size_t>(mine.rows() * mine.cols())))},
            each_alone(blocks_from(as_bytes(all), counts, bytes_of_row(all))));
        return;
    }
    const void* const from = in_place ? MPI_IN_PLACE : mine.data();
    if (is_patient_) {
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Iallgatherv(from, blocks.counts[own], row.get(), all.data(), blocks.counts.data(),
                              blocks.offsets.data(), row.get(), handle_->comm, &request),
              "MPI_Iallgatherv");
        complete(request, nap);
        return;
    }
    check(MPI_Allgatherv(from, blocks.counts[own], row.get(), all.data(), blocks.counts.data(), blocks.offsets.data(),
                         row.get(), handle_->comm),
          "MPI_Allgatherv");
}

template <class T>
void Communicator::reduce_scatter_rows(MatrixView<const T> all, MatrixView<T> mine,
                                       std::span<const index_t> counts) const {
    const char* const name = core::scopes::mpi_reduce_scatter_rows.name;
    const Call call(*this, core::scopes::mpi_reduce_scatter_rows, bytes_of(all), true);
    check_rows(name, mine, all, counts, rank(), size());
    if (all.empty()) {
        return;
    }
    if (size() == 1) {
        std::copy_n(all.data(), all.rows() * all.cols(), mine.data());
        return;
    }
    const bool is_staged = is_worth_staging(largest_block<T>(counts, all.cols()));
    if (staged_ != nullptr && is_staged) {
        staged_->reduce_scatter<T>(each_alone(blocks_from(as_bytes(all), counts, bytes_of_row(all))), mine.data());
        return;
    }
    if (rails_ != nullptr && is_staged) {
        const std::vector<index_t> of_rail = rails_->of_rail(counts);
        core::Matrix<T> sums(std::accumulate(of_rail.begin(), of_rail.end(), index_t{0}), all.cols());
        rails_->host.staged_->reduce_scatter<T>(rails_->of_rails(blocks_from(as_bytes(all), counts, bytes_of_row(all))),
                                                sums.data());
        rails_->rail.reduce_scatter_rows<T>(sums, mine, of_rail);
        return;
    }
    // Elements, not rows: MPI's own sums work on elementary datatypes only.
    const Blocks blocks = make_blocks(counts, all.cols(), name);
    check(MPI_Reduce_scatter(all.data(), mine.data(), blocks.counts.data(), datatype<T>(), MPI_SUM, handle_->comm),
          "MPI_Reduce_scatter");
}

template <class T>
void Communicator::all_to_all_rows(MatrixView<const T> sent, std::span<const index_t> sent_counts,
                                   MatrixView<T> received, std::span<const index_t> received_counts) const {
    const char* const name = core::scopes::mpi_all_to_all_rows.name;
    const Call call(*this, core::scopes::mpi_all_to_all_rows, bytes_of(sent), true);
    const index_t cols = std::max(sent.cols(), received.cols());
    check_blocks(name, sent, sent_counts, cols, size());
    check_blocks(name, received, received_counts, cols, size());
    if (cols == 0) {
        return;
    }
    if (size() == 1) {
        std::copy_n(sent.data(), sent.rows() * cols, received.data());
        return;
    }
    if (staged_ != nullptr && !is_patient_) {
        const std::size_t row_bytes = static_cast<std::size_t>(cols) * sizeof(T);
        if (staged_->all_to_all(blocks_from(as_bytes(sent), sent_counts, row_bytes),
                                blocks_from(as_bytes(received), received_counts, row_bytes))) {
            return;
        }
    }
    const Blocks out = make_blocks(sent_counts, 1, name);
    const Blocks in = make_blocks(received_counts, 1, name);
    const RowType row(datatype<T>(), cols, name);
    if (is_patient_) {
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Ialltoallv(sent.data(), out.counts.data(), out.offsets.data(), row.get(), received.data(),
                             in.counts.data(), in.offsets.data(), row.get(), handle_->comm, &request),
              "MPI_Ialltoallv");
        complete(request, nap);
        return;
    }
    check(MPI_Alltoallv(sent.data(), out.counts.data(), out.offsets.data(), row.get(), received.data(),
                        in.counts.data(), in.offsets.data(), row.get(), handle_->comm),
          "MPI_Alltoallv");
}

template void Communicator::all_gather_rows(MatrixView<const bf16>, MatrixView<bf16>, std::span<const index_t>) const;
template void Communicator::all_gather_rows(MatrixView<const float>, MatrixView<float>, std::span<const index_t>) const;
template void Communicator::all_gather_rows(MatrixView<const double>, MatrixView<double>,
                                            std::span<const index_t>) const;
template void Communicator::all_gather_rows(MatrixView<const std::int32_t>, MatrixView<std::int32_t>,
                                            std::span<const index_t>) const;
template void Communicator::all_gather_rows(MatrixView<const std::uint64_t>, MatrixView<std::uint64_t>,
                                            std::span<const index_t>) const;
template void Communicator::all_gather_rows(MatrixView<const std::int64_t>, MatrixView<std::int64_t>,
                                            std::span<const index_t>) const;
#define MOESAIC_INSTANTIATE(T)                                                                                \
    template void Communicator::all_to_all_rows(MatrixView<const T>, std::span<const index_t>, MatrixView<T>, \
                                                std::span<const index_t>) const;
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
MOESAIC_INSTANTIATE(std::int32_t)
MOESAIC_INSTANTIATE(std::uint64_t)
#undef MOESAIC_INSTANTIATE
template void Communicator::reduce_scatter_rows(MatrixView<const float>, MatrixView<float>,
                                                std::span<const index_t>) const;
template void Communicator::reduce_scatter_rows(MatrixView<const double>, MatrixView<double>,
                                                std::span<const index_t>) const;

}  // namespace moesaic::mpi
