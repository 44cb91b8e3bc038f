// A library to preload into the ranks of a program: rank FAILURE_RANK fails as FAILURE says. throw, kill, stop: at call
// number FAILURE_CALL of a collective that training uses, through the profiling interface of MPI. slow: every parallel
// region takes ten times as long. Thus the program itself needs no switch for it.
#include <dlfcn.h>
#include <mpi.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

std::string setting(const char* variable) {
    const char* text = std::getenv(variable);
    return text != nullptr ? text : "";
}

/// What this rank shall do; empty: nothing.
const std::string& failure() {
    static const std::string mine =
        setting("OMPI_COMM_WORLD_RANK") == setting("FAILURE_RANK") ? setting("FAILURE") : std::string();
    return mine;
}

void fail_if_due() {
    static const int due = std::atoi(setting("FAILURE_CALL").c_str());
    static int calls = 0;
    if (failure().empty() || failure() == "slow" || ++calls != due) {
        return;
    }
    if (failure() == "throw") {
        throw std::runtime_error("injected failure");
    }
    std::raise(failure() == "kill" ? SIGKILL : SIGSTOP);
}

}  // namespace

extern "C" int MPI_Allgatherv(const void* mine, int count, MPI_Datatype type, void* all, const int* counts,
                              const int* offsets, MPI_Datatype all_type, MPI_Comm comm) {
    fail_if_due();
    return PMPI_Allgatherv(mine, count, type, all, counts, offsets, all_type, comm);
}

extern "C" int MPI_Iallgatherv(const void* mine, int count, MPI_Datatype type, void* all, const int* counts,
                               const int* offsets, MPI_Datatype all_type, MPI_Comm comm, MPI_Request* request) {
    fail_if_due();
    return PMPI_Iallgatherv(mine, count, type, all, counts, offsets, all_type, comm, request);
}

// The entry of GNU's OpenMP library to every parallel region.
extern "C" void GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned flags) {
    static const auto original = reinterpret_cast<decltype(&GOMP_parallel)>(dlsym(RTLD_NEXT, "GOMP_parallel"));
    const auto begin = std::chrono::steady_clock::now();
    original(region, data, threads, flags);
    if (failure() == "slow") {
        std::this_thread::sleep_for(9 * (std::chrono::steady_clock::now() - begin));
    }
}
