// What the files that implement Communicator share: its MPI handle, the record of a call, and datatypes.
#pragma once

#include <mpi.h>

#include "core/scalar.hpp"
#include "core/trace.hpp"
#include "mpi/check.hpp"
#include "mpi/communicator.hpp"
#include "mpi/progress.hpp"
#include "mpi/transfer_numbers.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
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
    Call(const Communicator& group, const core::trace::ScopeName& name, std::int64_t bytes, bool with_arrows = false)
        : Call(group, name, bytes, group.handle_->numbers->next_call(with_arrows)) {}
    Call(const Communicator& group, const core::trace::ScopeName& name, std::int64_t bytes,
         const core::trace::Transfer& transfer)
        : scope_(name, bytes), progress_(group.size() > 1 ? &group.progress() : nullptr) {
        if (progress_ != nullptr) {
            scope_.set_transfer(transfer);
            progress_->enter(name.name);
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

/// Waits for a collective that was begun, asleep between looks at its progress: MPI's own waiting keeps a core busy.
void complete(MPI_Request request, std::chrono::microseconds nap);

/// Of the elements of a transfer.
template <class T>
[[nodiscard]] MPI_Datatype datatype();
template <>
inline MPI_Datatype datatype<bf16>() {
    return MPI_UINT16_T;  // only ever copied: MPI has no BF16 to compute with
}
template <>
inline MPI_Datatype datatype<std::int32_t>() {
    return MPI_INT32_T;
}
template <>
inline MPI_Datatype datatype<std::int64_t>() {
    return MPI_INT64_T;
}
template <>
inline MPI_Datatype datatype<std::uint64_t>() {
    return MPI_UINT64_T;
}
template <>
inline MPI_Datatype datatype<float>() {
    return MPI_FLOAT;
}
template <>
inline MPI_Datatype datatype<double>() {
    return MPI_DOUBLE;
}

template <class T>
[[nodiscard]] std::int64_t bytes_of(std::size_t elements) {
    return static_cast<std::int64_t>(elements * sizeof(T));
}

template <class T>
[[nodiscard]] std::int64_t bytes_of(MatrixView<T> view) {
    return view.rows() * view.cols() * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace moesaic::mpi
