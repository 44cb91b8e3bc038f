// Memory that ranks of one host have in common.
#pragma once

#include "mpi/communicator.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace moesaic::mpi {

/// A window of MPI-3 (MPI 4.0, section 12.2.3) that all ranks of a host read and write as their own memory. Pages get
/// their place, on the NUMA node of the rank, when a rank first writes to them.
class HostMemory {
public:
    /// Throws with ExitCode::out_of_resources if the host has no room for a window of so many bytes, or this process
    /// may not map it; `otherwise` completes the suggestion to make room: "or set ...". Of the ranks that will create a
    /// window all must ask first and agree: Open MPI 4.1 leaves the others waiting if one of them fails to create it.
    static void require_room(std::size_t bytes, const std::string& otherwise);

    /// Collective over `host`, whose ranks share memory. Contents are unspecified.
    HostMemory(const Communicator& host, std::size_t bytes);
    /// Collective, but while an exception passes: other ranks may not get here then, and the window ends with the
    /// process.
    ~HostMemory();
    HostMemory(const HostMemory&) = delete;
    HostMemory& operator=(const HostMemory&) = delete;

    /// Begins a page.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept;
    [[nodiscard]] const Communicator& host() const noexcept { return host_; }
    /// Takes the pages of a part that this rank will write to first. Throws with ExitCode::out_of_resources if there
    /// are none, where writing would end the process by SIGBUS; Linux before 5.14 can't tell.
    void take_pages(std::span<std::byte> part) const;
    /// Collective. What ranks wrote before, all can read after.
    void publish() const;
    /// What `publish` is for ranks that meet by other means: to be called before and after that.
    void synchronise() const;

private:
    struct Window;

    Communicator host_;
    std::unique_ptr<Window> window_;
};

}  // namespace moesaic::mpi
