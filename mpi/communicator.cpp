// Groups of ranks and typed collectives on top of the C interface of MPI.
#include "mpi/communicator.hpp"

#include <mpi.h>

#include "core/error.hpp"
#include "core/scalar.hpp"
#include "core/trace.hpp"
#include "mpi/check.hpp"
#include "mpi/progress.hpp"
#include "mpi/transfer_numbers.hpp"
#include "mpi/transfer_sizes.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

namespace moesaic::mpi {

using core::bf16;
using core::ExitCode;

/// One MPI communicator; ends with its last user unless MPI owns it.
struct Communicator::Handle {
    /// `group`: its number in traces.
    Handle(MPI_Comm communicator, bool owned, std::shared_ptr<Progress> of_process, std::uint64_t group)
        : comm(communicator), is_owned(owned), progress(std::move(of_process)) {
        check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
        check(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
        check(MPI_Comm_size(comm, &size), "MPI_Comm_size");
        numbers = std::make_unique<TransferNumbers>(group, rank, size);
    }
    ~Handle() {
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (is_owned && finalized == 0) {
            MPI_Comm_free(&comm);
        }
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    MPI_Comm comm;
    bool is_owned;
    std::shared_ptr<Progress> progress;
    std::unique_ptr<TransferNumbers> numbers;
    int rank = 0;
    int size = 1;
};

/// A collective from call to return, as the trace and the watchdog see it. Transfers of unknown size have 0 bytes.
class Communicator::Call {
public:
    Call(const Communicator& group, const char* name, std::int64_t bytes, bool with_arrows = false)
        : Call(group, name, bytes, group.handle_->numbers->next_call(with_arrows)) {}
    Call(const Communicator& group, const char* name, std::int64_t bytes, const core::trace::Transfer& transfer)
        : scope_(name, "mpi", bytes), progress_(group.size() > 1 ? &group.progress() : nullptr) {
        if (progress_ != nullptr) {
            scope_.set_transfer(transfer);
            progress_->enter(name);
        }
    }
    ~Call() {
        if (progress_ != nullptr) {
            progress_->leave();
        }
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

private:
    core::trace::Scope scope_;
    Progress* progress_;
};

namespace {

/// Tag of all transfers from rank to rank.
constexpr int message_tag = 1;

template <class T>
MPI_Datatype datatype();
template <>
MPI_Datatype datatype<bf16>() {
    return MPI_UINT16_T;  // only ever copied: MPI has no BF16 to compute with
}
template <>
MPI_Datatype datatype<std::int32_t>() {
    return MPI_INT32_T;
}
template <>
MPI_Datatype datatype<std::int64_t>() {
    return MPI_INT64_T;
}
template <>
MPI_Datatype datatype<std::uint64_t>() {
    return MPI_UINT64_T;
}
template <>
MPI_Datatype datatype<float>() {
    return MPI_FLOAT;
}
template <>
MPI_Datatype datatype<double>() {
    return MPI_DOUBLE;
}

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

template <class T>
std::int64_t bytes_of(std::size_t elements) {
    return static_cast<std::int64_t>(elements * sizeof(T));
}

template <class T>
std::int64_t bytes_of(MatrixView<T> view) {
    return view.rows() * view.cols() * static_cast<std::int64_t>(sizeof(T));
}

template <class T>
void all_reduce(std::span<T> values, MPI_Op operation, MPI_Comm comm) {
    for_each_piece(values.size_bytes(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Allreduce(MPI_IN_PLACE, values.data() + offset / sizeof(T), static_cast<int>(length / sizeof(T)),
                            datatype<T>(), operation, comm),
              "MPI_Allreduce");
    });
}

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

std::vector<std::string> split_text(const std::string& joined, std::span<const index_t> lengths) {
    std::vector<std::string> texts;
    std::size_t offset = 0;
    for (const index_t length : lengths) {
        texts.push_back(joined.substr(offset, static_cast<std::size_t>(length)));
        offset += static_cast<std::size_t>(length);
    }
    return texts;
}

MPI_Comm checked_builtin(MPI_Comm comm) {
    int initialized = 0;
    check(MPI_Initialized(&initialized), "MPI_Initialized");
    core::require(initialized != 0, ExitCode::runtime_failure,
                  "MPI was used before its start (no mpi::Environment exists); create one first in main");
    return comm;
}

}  // namespace

Communicator::Communicator(std::shared_ptr<const Handle> handle) : handle_(std::move(handle)) {}

Communicator Communicator::world() {
    return Communicator(
        std::make_shared<Handle>(checked_builtin(MPI_COMM_WORLD), false, std::make_shared<Progress>(), 1));
}

Communicator Communicator::self() {
    return Communicator(
        std::make_shared<Handle>(checked_builtin(MPI_COMM_SELF), false, std::make_shared<Progress>(), 2));
}

int Communicator::rank() const noexcept {
    return handle_->rank;
}

int Communicator::size() const noexcept {
    return handle_->size;
}

Progress& Communicator::progress() const noexcept {
    return *handle_->progress;
}

Communicator Communicator::split(int colour, int key) const {
    const Call call(*this, "mpi.split", 0);
    core::require(colour >= 0, ExitCode::runtime_failure,
                  "a group of ranks has colour {} (negative); this is a defect of the caller", colour);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(handle_->comm, colour, key, &part), "MPI_Comm_split");
    return Communicator(std::make_shared<Handle>(part, true, handle_->progress, handle_->numbers->of_part(colour)));
}

Communicator Communicator::split_by_node() const {
    const Call call(*this, "mpi.split_by_node", 0);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split_type(handle_->comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
          "MPI_Comm_split_type");
    int first = rank();  // of the ranks on this node, which tells nodes apart
    check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, part), "MPI_Allreduce");
    return Communicator(std::make_shared<Handle>(part, true, handle_->progress, handle_->numbers->of_part(first)));
}

void Communicator::barrier() const {
    const Call call(*this, "mpi.barrier", 0);
    if (size() > 1) {
        check(MPI_Barrier(handle_->comm), "MPI_Barrier");
    }
}

void Communicator::quiet_barrier() const {
    const Call call(*this, "mpi.quiet_barrier", 0);
    if (size() == 1) {
        return;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(handle_->comm, &request), "MPI_Ibarrier");
    for (int done = 0; done == 0;) {
        check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (done == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
}

template <class T>
void Communicator::sum(std::span<T> values) const {
    const Call call(*this, "mpi.sum", bytes_of<T>(values.size()));
    if (size() > 1) {
        all_reduce(values, MPI_SUM, handle_->comm);
    }
}

template <class T>
requires std::is_arithmetic_v<T> T Communicator::sum(T value)
const {
    sum(std::span<T>(&value, 1));
    return value;
}

template <class T>
T Communicator::max(T value) const {
    const Call call(*this, "mpi.max", sizeof(T));
    if (size() > 1) {
        all_reduce(std::span<T>(&value, 1), MPI_MAX, handle_->comm);
    }
    return value;
}

template <class T>
T Communicator::min(T value) const {
    const Call call(*this, "mpi.min", sizeof(T));
    if (size() > 1) {
        all_reduce(std::span<T>(&value, 1), MPI_MIN, handle_->comm);
    }
    return value;
}

template <class T>
std::vector<T> Communicator::all_gather(T value) const {
    const Call call(*this, "mpi.all_gather", sizeof(T));
    std::vector<T> values(static_cast<std::size_t>(size()), value);
    if (size() > 1) {
        check(MPI_Allgather(&value, 1, datatype<T>(), values.data(), 1, datatype<T>(), handle_->comm), "MPI_Allgather");
    }
    return values;
}

void Communicator::broadcast_bytes(std::span<std::byte> bytes, int root) const {
    const Call call(*this, "mpi.broadcast", rank() == root ? bytes_of<std::byte>(bytes.size()) : 0);
    if (size() == 1) {
        return;
    }
    for_each_piece(bytes.size(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Bcast(bytes.data() + offset, static_cast<int>(length), MPI_BYTE, root, handle_->comm), "MPI_Bcast");
    });
}

void Communicator::broadcast(std::string& text, int root) const {
    std::uint64_t length = text.size();
    broadcast(std::span<std::uint64_t>(&length, 1), root);
    text.resize(length);
    broadcast(std::span(text.data(), text.size()), root);
}

void Communicator::send(std::span<const std::byte> bytes, int to) const {
    const Call call(*this, "mpi.send", bytes_of<std::byte>(bytes.size()), handle_->numbers->next_sent(to));
    for_each_piece(bytes.size(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Send(bytes.data() + offset, static_cast<int>(length), MPI_BYTE, to, message_tag, handle_->comm),
              "MPI_Send");
    });
}

void Communicator::receive(std::span<std::byte> bytes, int from) const {
    const Call call(*this, "mpi.receive", 0, handle_->numbers->next_received(from));
    for_each_piece(bytes.size(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Recv(bytes.data() + offset, static_cast<int>(length), MPI_BYTE, from, message_tag, handle_->comm,
                       MPI_STATUS_IGNORE),
              "MPI_Recv");
    });
}

/// From rank to rank, because MPI_Gatherv cannot place blocks beyond 2^31 elements and checkpoints have more.
void Communicator::gather_bytes(std::span<const std::byte> mine, std::span<std::byte> all,
                                std::span<const index_t> bytes_of_ranks) const {
    if (!is_root()) {
        send(mine, 0);
        return;
    }
    std::size_t end = mine.size();
    std::copy(mine.begin(), mine.end(), all.data());
    for (int source = 1; source < size(); ++source) {
        const auto bytes = static_cast<std::size_t>(bytes_of_ranks[static_cast<std::size_t>(source)]);
        receive(all.subspan(end, bytes), source);
        end += bytes;
    }
}

std::vector<std::string> Communicator::gather(const std::string& text) const {
    const Call call(*this, "mpi.gather", bytes_of<char>(text.size()));
    const std::vector<index_t> lengths = all_gather(static_cast<index_t>(text.size()));
    std::string joined = gather_joined(text, lengths);
    return is_root() ? split_text(joined, lengths) : std::vector<std::string>();
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
    const Call call(*this, "mpi.all_gather", bytes_of<char>(text.size()));
    const std::vector<index_t> lengths = all_gather(static_cast<index_t>(text.size()));
    std::string joined = gather_joined(text, lengths);
    broadcast(joined);
    return split_text(joined, lengths);
}

std::string Communicator::gather_joined(const std::string& text, std::span<const index_t> lengths) const {
    std::string joined;
    if (is_root()) {
        joined.resize(static_cast<std::size_t>(std::accumulate(lengths.begin(), lengths.end(), index_t{0})));
    }
    gather_bytes(std::as_bytes(std::span(text)), std::as_writable_bytes(std::span(joined)), lengths);
    return joined;
}

template <class T>
void Communicator::all_gather_rows(MatrixView<const T> mine, MatrixView<T> all, std::span<const index_t> counts) const {
    const char* const name = "mpi.all_gather_rows";
    const Call call(*this, name, bytes_of(mine), true);
    check_rows(name, mine, all, counts, rank(), size());
    const Blocks blocks = make_blocks(counts, 1, name);
    if (all.empty()) {
        return;
    }
    const auto own = static_cast<std::size_t>(rank());
    const bool in_place = mine.data() == all.data() + blocks.offsets[own] * all.cols();
    if (size() == 1) {
        if (!in_place) {
            std::copy_n(mine.data(), mine.rows() * mine.cols(), all.data());
        }
        return;
    }
    const RowType row(datatype<T>(), all.cols(), name);
    check(MPI_Allgatherv(in_place ? MPI_IN_PLACE : mine.data(), blocks.counts[own], row.get(), all.data(),
                         blocks.counts.data(), blocks.offsets.data(), row.get(), handle_->comm),
          "MPI_Allgatherv");
}

template <class T>
void Communicator::reduce_scatter_rows(MatrixView<const T> all, MatrixView<T> mine,
                                       std::span<const index_t> counts) const {
    const char* const name = "mpi.reduce_scatter_rows";
    const Call call(*this, name, bytes_of(all), true);
    check_rows(name, mine, all, counts, rank(), size());
    if (all.empty()) {
        return;
    }
    if (size() == 1) {
        std::copy_n(all.data(), all.rows() * all.cols(), mine.data());
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
    const char* const name = "mpi.all_to_all_rows";
    const Call call(*this, name, bytes_of(sent), true);
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
    const Blocks out = make_blocks(sent_counts, 1, name);
    const Blocks in = make_blocks(received_counts, 1, name);
    const RowType row(datatype<T>(), cols, name);
    check(MPI_Alltoallv(sent.data(), out.counts.data(), out.offsets.data(), row.get(), received.data(),
                        in.counts.data(), in.offsets.data(), row.get(), handle_->comm),
          "MPI_Alltoallv");
}

template <class T>
void Communicator::gather_blocks(std::span<const T> mine, std::span<T> all, std::span<const index_t> counts) const {
    const Call call(*this, "mpi.gather_blocks", bytes_of<T>(mine.size()));
    const bool complete = std::ssize(counts) == size();
    const index_t announced = complete ? counts[static_cast<std::size_t>(rank())] : -1;
    const index_t total = std::accumulate(counts.begin(), counts.end(), index_t{0});
    core::require(
        complete && std::ssize(mine) == announced && (!is_root() || std::ssize(all) == total),
        ExitCode::runtime_failure,
        "mpi.gather_blocks: sizes disagree (rank {} of {} has {} elements and announced {}; there is room for "
        "{} and {} were announced); this is a defect of the caller",
        rank(), size(), mine.size(), announced, all.size(), total);
    std::vector<index_t> bytes_of_ranks(counts.begin(), counts.end());
    for (index_t& bytes : bytes_of_ranks) {
        bytes *= static_cast<index_t>(sizeof(T));
    }
    gather_bytes(std::as_bytes(mine), std::as_writable_bytes(all), bytes_of_ranks);
}

template void Communicator::sum(std::span<float>) const;
template void Communicator::sum(std::span<double>) const;
template void Communicator::sum(std::span<std::int64_t>) const;
template float Communicator::sum(float) const;
template double Communicator::sum(double) const;
template std::int64_t Communicator::sum(std::int64_t) const;
template float Communicator::max(float) const;
template double Communicator::max(double) const;
template std::int64_t Communicator::max(std::int64_t) const;
template float Communicator::min(float) const;
template double Communicator::min(double) const;
template std::int64_t Communicator::min(std::int64_t) const;
template std::vector<double> Communicator::all_gather(double) const;
template std::vector<std::int64_t> Communicator::all_gather(std::int64_t) const;
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
template void Communicator::gather_blocks(std::span<const float>, std::span<float>, std::span<const index_t>) const;
template void Communicator::gather_blocks(std::span<const double>, std::span<double>, std::span<const index_t>) const;

}  // namespace moesaic::mpi
