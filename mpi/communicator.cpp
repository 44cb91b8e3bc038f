// Groups of ranks and reductions of values on top of the C interface of MPI.
#include "mpi/communicator_handle.hpp"
#include "mpi/host_stage.hpp"
#include "mpi/transfer_sizes.hpp"

#include <algorithm>
#include <map>
#include <thread>

namespace moesaic::mpi {

namespace {

template <class T>
void all_reduce(std::span<T> values, MPI_Op operation, MPI_Comm comm) {
    for_each_piece(values.size_bytes(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Allreduce(MPI_IN_PLACE, values.data() + offset / sizeof(T), static_cast<int>(length / sizeof(T)),
                            datatype<T>(), operation, comm),
              "MPI_Allreduce");
    });
}

MPI_Comm checked_builtin(MPI_Comm comm) {
    int initialized = 0;
    check(MPI_Initialized(&initialized), "MPI_Initialized");
    core::require(initialized != 0, ExitCode::runtime_failure,
                  "MPI was used before its start (no mpi::Environment exists); create one first in main");
    return comm;
}

}  // namespace

void complete(MPI_Request request, std::chrono::microseconds nap) {
    int is_complete = 0;
    check(MPI_Test(&request, &is_complete, MPI_STATUS_IGNORE), "MPI_Test");
    while (is_complete == 0) {
        std::this_thread::sleep_for(nap);
        check(MPI_Test(&request, &is_complete, MPI_STATUS_IGNORE), "MPI_Test");
    }
}

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
    const Call call(*this, core::scopes::mpi_split, 0);
    core::require(colour >= 0, ExitCode::runtime_failure,
                  "a group of ranks has colour {} (negative); this is a defect of the caller", colour);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(handle_->comm, colour, key, &part), "MPI_Comm_split");
    Communicator result(std::make_shared<Handle>(part, true, handle_->progress, handle_->numbers->of_part(colour)));
    result.use(stage_);
    return result;
}

Communicator Communicator::split_by_node() const {
    const Call call(*this, core::scopes::mpi_split_by_node, 0);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split_type(handle_->comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
          "MPI_Comm_split_type");
    int first = rank();  // of the ranks on this node, which tells nodes apart
    check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, part), "MPI_Allreduce");
    Communicator result(std::make_shared<Handle>(part, true, handle_->progress, handle_->numbers->of_part(first)));
    result.use(stage_);
    return result;
}

Communicator Communicator::sleeping_waits() const {
    Communicator copy = *this;
    copy.is_patient_ = true;
    return copy;
}

Communicator Communicator::with_shared_stage() const {
    Communicator result = *this;
    if (has_shared_stage()) {
        return result;
    }
    const Communicator host = split_by_node();
    if (max(static_cast<std::int64_t>(host.size())) == 1) {
        return result;
    }
    agree([&] { HostMemory::require_room(HostStage::bytes_for(host.size()), "or start fewer ranks per host"); });
    std::int64_t first = rank();  // of the host's ranks in this group, which tells hosts apart
    first = host.min(first);
    const auto stage = std::make_shared<const HostStage>(host, static_cast<int>(first));
    agree([&] { stage->take_pages(); });
    result.use(stage);
    return result;
}

void Communicator::use(std::shared_ptr<const HostStage> stage) {
    stage_ = std::move(stage);
    if (stage_ == nullptr || size() == 1) {
        return;
    }
    struct Place {
        int host;
        int rank;
    };
    const Place mine = {stage_->host(), stage_->rank()};
    std::vector<Place> places(static_cast<std::size_t>(size()));
    check(MPI_Allgather(&mine, 2, MPI_INT, places.data(), 2, MPI_INT, handle_->comm), "MPI_Allgather");
    std::map<int, std::vector<int>> ranks_of_host;
    std::vector<int> places_on_host;
    for (int rank = 0; rank < size(); ++rank) {
        const Place& place = places[static_cast<std::size_t>(rank)];
        ranks_of_host[place.host].push_back(rank);
        places_on_host.push_back(place.rank);
    }
    if (ranks_of_host.size() == 1) {
        staged_ = std::make_shared<const StagedGroup>(stage_, std::move(places_on_host), handle_->comm);
        return;
    }
    const std::vector<int>& own = ranks_of_host[mine.host];
    const bool are_alike = std::all_of(ranks_of_host.begin(), ranks_of_host.end(),
                                       [&](const auto& of_host) { return of_host.second.size() == own.size(); });
    if (own.size() > 1 && are_alike) {
        std::vector<std::vector<int>> members(own.size());
        for (const auto& [host, ranks] : ranks_of_host) {
            for (std::size_t i = 0; i < ranks.size(); ++i) {
                members[i].push_back(ranks[i]);
            }
        }
        const auto rail = static_cast<int>(std::find(own.begin(), own.end(), rank()) - own.begin());
        rails_ = std::make_shared<const Rails>(Rails{split(mine.host, rank()), split(rail, mine.host), members});
    }
}

void Communicator::barrier() const {
    const Call call(*this, core::scopes::mpi_barrier, 0);
    if (size() > 1) {
        check(MPI_Barrier(handle_->comm), "MPI_Barrier");
    }
}

void Communicator::sleeping_barrier() const {
    const Call call(*this, core::scopes::mpi_sleeping_barrier, 0);
    if (size() > 1) {
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Ibarrier(handle_->comm, &request), "MPI_Ibarrier");
        complete(request, std::chrono::milliseconds(1));
    }
}

template <class T>
void Communicator::sum(std::span<T> values) const {
    const Call call(*this, core::scopes::mpi_sum, bytes_of<T>(values.size()));
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
    const Call call(*this, core::scopes::mpi_max, sizeof(T));
    if (size() > 1) {
        all_reduce(std::span<T>(&value, 1), MPI_MAX, handle_->comm);
    }
    return value;
}

template <class T>
T Communicator::min(T value) const {
    const Call call(*this, core::scopes::mpi_min, sizeof(T));
    if (size() > 1) {
        all_reduce(std::span<T>(&value, 1), MPI_MIN, handle_->comm);
    }
    return value;
}

std::vector<std::int64_t> Communicator::all_gather(std::int64_t value) const {
    const Call call(*this, core::scopes::mpi_all_gather, sizeof value);
    std::vector<std::int64_t> values(static_cast<std::size_t>(size()), value);
    if (size() > 1) {
        const MPI_Datatype type = datatype<std::int64_t>();
        check(MPI_Allgather(&value, 1, type, values.data(), 1, type, handle_->comm), "MPI_Allgather");
    }
    return values;
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

}  // namespace moesaic::mpi
