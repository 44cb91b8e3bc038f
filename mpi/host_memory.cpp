#include "mpi/host_memory.hpp"

#include "core/error.hpp"
#include "core/units.hpp"
#include "host/limits.hpp"
#include "host/placement.hpp"
#include "mpi/communicator_handle.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <exception>
#include <limits>

namespace moesaic::mpi {

/// The window, in an epoch that lasts as long as it does: memory is all that is wanted of it.
struct HostMemory::Window {
    MPI_Win handle = MPI_WIN_NULL;
    std::span<std::byte> bytes;
};

namespace {

std::size_t page_bytes() {
    return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

/// Where the library keeps the memory of windows: what Open MPI says of it, or else the folder for shared memory.
std::string backing_folder() {
    std::string folder = "/dev/shm";
    int provided = MPI_THREAD_SINGLE;
    check(MPI_T_init_thread(MPI_THREAD_SINGLE, &provided), "MPI_T_init_thread");
    int index = 0;
    int length = 0;
    MPI_T_cvar_handle handle = MPI_T_CVAR_HANDLE_NULL;
    if (MPI_T_cvar_get_index("osc_sm_backing_directory", &index) == MPI_SUCCESS &&
        MPI_T_cvar_handle_alloc(index, nullptr, &handle, &length) == MPI_SUCCESS) {
        std::string text(static_cast<std::size_t>(length) + 1, '\0');
        if (MPI_T_cvar_read(handle, text.data()) == MPI_SUCCESS && text.front() != '\0') {
            folder = text.c_str();
        }
        MPI_T_cvar_handle_free(&handle);
    }
    check(MPI_T_finalize(), "MPI_T_finalize");
    return folder;
}

/// A bound of the bytes of a window, what sets it, and how to move it.
struct Room {
    std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max();
    std::string of = {};
    std::string remedy = "raise the limit";
};

std::string size_text(std::uint64_t bytes) {
    const auto size = static_cast<double>(bytes);
    return size < core::gibibyte ? fmt::format("{:.0f} MiB", size / core::mebibyte)
                                 : fmt::format("{:.2f} GiB", size / core::gibibyte);
}

Room room_of_files() {
    const std::string folder = backing_folder();
    struct statvfs info {};
    if (statvfs(folder.c_str(), &info) != 0 || info.f_blocks == 0) {  // tmpfs of size=0 has no bound of its own
        return {};
    }
    return {static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize, folder,
            fmt::format("make {} larger (mount -o remount,size=SIZE {}, docker run --shm-size SIZE)", folder, folder)};
}

Room room_of_one_file() {
    struct rlimit limit {};
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return {};
    }
    return {.bytes = limit.rlim_cur, .of = "ulimit -f (RLIMIT_FSIZE)"};
}

Room room_of_process() {
    const host::HostLimits limits = host::read_host_limits();
    return {.bytes = limits.process_bytes, .of = limits.process_limit};
}

}  // namespace

void HostMemory::require_room(std::size_t bytes, const std::string& otherwise) {
    constexpr std::size_t of_library = std::size_t{1} << 20U;  // more than it keeps beside
    for (const Room& room : {room_of_files(), room_of_one_file(), room_of_process()}) {
        core::require(bytes + of_library <= room.bytes, ExitCode::out_of_resources,
                      "the ranks of {} can't share {} of memory ({}: {} are left); {}, {}", host::host_name(),
                      size_text(bytes), room.of, size_text(room.bytes), room.remedy, otherwise);
    }
}

HostMemory::HostMemory(const Communicator& host, std::size_t bytes) : host_(host), window_(std::make_unique<Window>()) {
    const Communicator::Call call(host_, core::scopes::mpi_share_memory, static_cast<std::int64_t>(bytes));
    const std::size_t page = page_bytes();
    const std::size_t of_this_rank = host_.is_root() ? bytes + page : 0;
    void* first = nullptr;
    check(MPI_Win_allocate_shared(static_cast<MPI_Aint>(of_this_rank), 1, MPI_INFO_NULL, host_.handle_->comm, &first,
                                  &window_->handle),
          "MPI_Win_allocate_shared");
    check(MPI_Win_set_errhandler(window_->handle, MPI_ERRORS_RETURN), "MPI_Win_set_errhandler");
    MPI_Aint size = 0;
    int unit = 0;
    check(MPI_Win_shared_query(window_->handle, 0, &size, &unit, &first), "MPI_Win_shared_query");
    // Ranks have the window at different addresses, but all of them at the same place within a page.
    const std::size_t in_page = reinterpret_cast<std::uintptr_t>(first) % page;
    window_->bytes = {static_cast<std::byte*>(first) + (page - in_page) % page, bytes};
    check(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_->handle), "MPI_Win_lock_all");
}

HostMemory::~HostMemory() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (std::uncaught_exceptions() == 0 && finalized == 0) {
        try {
            host_.barrier();  // where the watchdog sees this rank wait
            MPI_Win_unlock_all(window_->handle);
            MPI_Win_free(&window_->handle);
        } catch (const core::Error&) {
            // What MPI can't free ends with the process.
        }
    }
}

std::span<std::byte> HostMemory::bytes() const noexcept {
    return window_->bytes;
}

void HostMemory::take_pages(std::span<std::byte> part) const {
#ifdef MADV_POPULATE_WRITE
    const std::size_t page = page_bytes();
    const std::size_t before = reinterpret_cast<std::uintptr_t>(part.data()) % page;
    if (!part.empty() && madvise(part.data() - before, part.size() + before, MADV_POPULATE_WRITE) != 0 &&
        errno != EINVAL) {  // of a kernel that does not know it
        core::fail(ExitCode::out_of_resources,
                   "{} has no room left for memory that its ranks share ({} or the memory itself filled up meanwhile); "
                   "free some of it, or share nothing",
                   host::host_name(), backing_folder());
    }
#else
    static_cast<void>(part);
#endif
}

void HostMemory::publish() const {
    synchronise();
    host_.barrier();
    synchronise();
}

void HostMemory::synchronise() const {
    check(MPI_Win_sync(window_->handle), "MPI_Win_sync");
}

}  // namespace moesaic::mpi
