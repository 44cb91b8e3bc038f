// Start-up and end of the MPI library.
#include <mpi.h>
#include <unistd.h>

#include "core/error.hpp"
#include "mpi/check.hpp"
#include "mpi/communicator.hpp"

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace moesaic::mpi {

using core::ExitCode;

namespace {

constexpr unsigned seconds_to_abort = 5;
volatile std::sig_atomic_t code_of_abort = 0;  // read by a signal handler

bool is_running() noexcept {
    int initialized = 0;
    int finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    return initialized != 0 && finalized == 0;
}

void require_threads(int provided) {
    core::require(provided >= MPI_THREAD_FUNNELED, ExitCode::runtime_failure,
                  "the MPI library gives no thread support (level {}, at least MPI_THREAD_FUNNELED is needed); use an "
                  "MPI library that was built with threads",
                  provided);
}

}  // namespace

void check(int status, const char* operation) {
    if (status == MPI_SUCCESS) {
        return;
    }
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    if (MPI_Error_string(status, text.data(), &length) != MPI_SUCCESS) {
        length = 0;
    }
    core::fail(
        ExitCode::runtime_failure, "{} failed ({}); check that all ranks and the network of the job are alive",
        operation,
        length > 0 ? std::string(text.data(), static_cast<std::size_t>(length)) : fmt::format("code {}", status));
}

Environment::Environment(int& argc, char**& argv) {
    int initialized = 0;
    check(MPI_Initialized(&initialized), "MPI_Initialized");
    int provided = MPI_THREAD_SINGLE;
    if (initialized != 0) {
        check(MPI_Query_thread(&provided), "MPI_Query_thread");
    } else {
        // Without mpirun, Open MPI would start a daemon for processes to be spawned later: that takes a tenth of a
        // second and fails on hosts that have no ssh. Nothing is spawned here; a user's own setting is kept.
        ::setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
        check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
        owns_library_ = true;
    }
    require_threads(provided);
}

Environment::~Environment() {
    if (owns_library_ && is_running()) {
        MPI_Finalize();
    }
}

std::string Environment::library_version() {
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
    int length = 0;
    check(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
    const std::string_view version(text.data());
    return std::string(version.substr(0, version.find_first_of("\r\n")));
}

void Environment::abort(int exit_code) noexcept {
    // Neither MPI_Abort nor _Exit writes out what is still buffered, which is most likely the reason of the failure.
    std::fflush(nullptr);
    int ranks = 1;
    if (is_running() && MPI_Comm_size(MPI_COMM_WORLD, &ranks) == MPI_SUCCESS && ranks > 1) {
        // MPI_Abort talks to the launcher and may wait forever if that is out of reach.
        code_of_abort = exit_code;
        std::signal(SIGALRM, [](int) { std::_Exit(code_of_abort); });
        ::alarm(seconds_to_abort);
        MPI_Abort(MPI_COMM_WORLD, exit_code);
    }
    std::_Exit(exit_code);
}

}  // namespace moesaic::mpi
