// Transfers of bytes and texts of any length.
#include "mpi/communicator_handle.hpp"
#include "mpi/transfer_sizes.hpp"

#include <algorithm>
#include <numeric>

namespace moesaic::mpi {

namespace {

/// Tag of all transfers from rank to rank.
constexpr int message_tag = 1;

std::vector<std::string> split_text(const std::string& joined, std::span<const index_t> lengths) {
    std::vector<std::string> texts;
    std::size_t offset = 0;
    for (const index_t length : lengths) {
        texts.push_back(joined.substr(offset, static_cast<std::size_t>(length)));
        offset += static_cast<std::size_t>(length);
    }
    return texts;
}

}  // namespace

void Communicator::broadcast_bytes(std::span<std::byte> bytes, int root) const {
    const Call call(*this, core::scopes::mpi_broadcast, rank() == root ? bytes_of<std::byte>(bytes.size()) : 0);
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
    const Call call(*this, core::scopes::mpi_send, bytes_of<std::byte>(bytes.size()), handle_->numbers->next_sent(to));
    for_each_piece(bytes.size(), largest_piece, [&](std::size_t offset, std::size_t length) {
        check(MPI_Send(bytes.data() + offset, static_cast<int>(length), MPI_BYTE, to, message_tag, handle_->comm),
              "MPI_Send");
    });
}

void Communicator::receive(std::span<std::byte> bytes, int from) const {
    const Call call(*this, core::scopes::mpi_receive, 0, handle_->numbers->next_received(from));
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
    const Call call(*this, core::scopes::mpi_gather, bytes_of<char>(text.size()));
    const std::vector<index_t> lengths = all_gather(static_cast<index_t>(text.size()));
    std::string joined = gather_joined(text, lengths);
    return is_root() ? split_text(joined, lengths) : std::vector<std::string>();
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
    const Call call(*this, core::scopes::mpi_all_gather, bytes_of<char>(text.size()));
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
void Communicator::gather_blocks(std::span<const T> mine, std::span<T> all, std::span<const index_t> counts) const {
    const Call call(*this, core::scopes::mpi_gather_blocks, bytes_of<T>(mine.size()));
    const bool complete = std::ssize(counts) == size();
    const index_t announced = complete ? counts[static_cast<std::size_t>(rank())] : -1;
    const index_t total = std::accumulate(counts.begin(), counts.end(), index_t{0});
    core::require(complete && std::ssize(mine) == announced && (!is_root() || std::ssize(all) == total),
                  ExitCode::runtime_failure,
                  "{}: sizes disagree (rank {} of {} has {} elements and announced {}; there is room for "
                  "{} and {} were announced); this is a defect of the caller",
                  core::scopes::mpi_gather_blocks.name, rank(), size(), mine.size(), announced, all.size(), total);
    std::vector<index_t> bytes_of_ranks(counts.begin(), counts.end());
    for (index_t& bytes : bytes_of_ranks) {
        bytes *= static_cast<index_t>(sizeof(T));
    }
    gather_bytes(std::as_bytes(mine), std::as_writable_bytes(all), bytes_of_ranks);
}

template void Communicator::gather_blocks(std::span<const float>, std::span<float>, std::span<const index_t>) const;
template void Communicator::gather_blocks(std::span<const double>, std::span<double>, std::span<const index_t>) const;

}  // namespace moesaic::mpi
