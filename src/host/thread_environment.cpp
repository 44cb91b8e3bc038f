#include "host/thread_environment.hpp"
#include "core/counted.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace moesaic::host {
namespace {

/// Variables by which OpenMP libraries (GCC's, LLVM's, Intel's) bind threads to cores.
constexpr std::array binding_variables = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
                                          "KMP_HW_SUBSET"};

/// The entries "NAME=VALUE" that were found, null after the last. They stay where the kernel put them.
std::array<const char*, binding_variables.size() + 1> taken_bindings{};

bool binds_threads(const char* entry) {
    return std::any_of(binding_variables.begin(), binding_variables.end(), [entry](const char* name) {
        const std::size_t length = std::strlen(name);
        return std::strncmp(entry, name, length) == 0 && entry[length] == '=';
    });
}

/// Takes the variables out of the environment before the OpenMP library reads them. GCC's library does that in its
/// constructor, which runs before main() and before any constructor of the program; it then binds the first thread to
/// the first place, and nobody can tell any more which cores the launcher had given to the process. Later it binds
/// each thread that it starts, those of the second team (core::Worker) on top of those of the first. Functions in
/// .preinit_array run before the constructors of all libraries. Only executables may have them: this file must not
/// become a part of a shared library. The C library has not been initialised yet, so that the environment is edited
/// where it is, and nothing is allocated.
void take_bindings(int /*argc*/, char** /*argv*/, char** environment) {
    char** kept = environment;
    std::size_t taken = 0;
    for (char** entry = environment; *entry != nullptr; ++entry) {
        if (taken < binding_variables.size() && binds_threads(*entry)) {
            taken_bindings[taken++] = *entry;
        } else {
            *kept++ = *entry;
        }
    }
    *kept = nullptr;
}

[[gnu::section(".preinit_array"), gnu::used]] void (*const take_bindings_first)(int, char**, char**) = take_bindings;

/// The positive number that a variable begins with, as "4" and "4,2"; 0 if there is none.
int number_in(const char* variable) {
    const char* const text = std::getenv(variable);
    int number = 0;
    if (text != nullptr) {
        const std::string_view all(text);
        const std::size_t begin = std::min(all.find_first_not_of(" \t"), all.size());
        std::from_chars(all.data() + begin, all.data() + all.size(), number);
    }
    return std::max(number, 0);
}

/// The CPUs that Slurm granted to a rank, and the variable that says so; 0: unlimited.
struct Grant {
    int cpus = 0;
    std::string variable;
};

Grant granted(const ThreadEnvironment& environment, int node_ranks) {
    if (environment.slurm_cpus_per_task > 0) {
        return {environment.slurm_cpus_per_task,
                fmt::format("SLURM_CPUS_PER_TASK = {}", environment.slurm_cpus_per_task)};
    }
    if (environment.slurm_cpus_on_node > 0) {
        return {std::max(environment.slurm_cpus_on_node / node_ranks, 1),
                fmt::format("SLURM_CPUS_ON_NODE = {}", environment.slurm_cpus_on_node)};
    }
    return {};
}

void add(ThreadChoice& choice, Severity severity, std::string problem, std::string advice = "") {
    choice.remarks.push_back({severity, std::move(problem), "", std::move(advice)});
}

/// One thread per core that the environment allows.
int automatic_threads(const ThreadEnvironment& environment, const ThreadRequest& request, ThreadChoice& choice) {
    const Grant grant = granted(environment, request.node_ranks);
    int threads = request.cores;
    if (grant.cpus > 0 && grant.cpus < threads) {
        add(choice, Severity::note,
            fmt::format("{} of {} that can be seen are used ({})", grant.cpus, core::counted(threads, "core"),
                        grant.variable),
            "ask Slurm for more CPUs per task to use more");
        threads = grant.cpus;
    }
    const int openmp = environment.openmp_threads;
    if (openmp > threads) {
        add(choice, Severity::note,
            fmt::format("OMP_NUM_THREADS = {} is more than the cores; {} will run", openmp,
                        core::counted(threads, "thread")),
            "parallel.threads overrules it");
    } else if (openmp > 0 && openmp < threads) {
        add(choice, Severity::warning,
            fmt::format("OMP_NUM_THREADS = {} leaves {} of {} cores idle", openmp, threads - openmp, threads),
            "unset it, or set parallel.threads");
        threads = openmp;
    }
    return threads;
}

/// What the user asked for, whatever the environment says.
int wanted_threads(const ThreadEnvironment& environment, const ThreadRequest& request, ThreadChoice& choice) {
    const Grant grant = granted(environment, request.node_ranks);
    if (environment.openmp_threads > 0 && environment.openmp_threads != request.wanted) {
        add(choice, Severity::note,
            fmt::format("parallel.threads = {} overrules OMP_NUM_THREADS = {}", request.wanted,
                        environment.openmp_threads));
    }
    if (grant.cpus > 0 && request.wanted > grant.cpus) {
        add(choice, Severity::warning,
            fmt::format("{} on {} that Slurm granted ({})", core::counted(request.wanted, "thread"),
                        core::counted(grant.cpus, "CPU"), grant.variable),
            "ask Slurm for more CPUs per task, or leave parallel.threads at auto");
    }
    return request.wanted;
}

}  // namespace

ThreadEnvironment read_thread_environment() {
    ThreadEnvironment environment;
    for (const char* const* entry = taken_bindings.data(); *entry != nullptr; ++entry) {
        environment.bindings.emplace_back(*entry);
    }
    environment.openmp_threads = number_in("OMP_NUM_THREADS");
    environment.openmp_limit = number_in("OMP_THREAD_LIMIT");
    environment.slurm_cpus_per_task = number_in("SLURM_CPUS_PER_TASK");
    environment.slurm_cpus_on_node = number_in("SLURM_CPUS_ON_NODE");
    return environment;
}

ThreadChoice choose_threads(const ThreadEnvironment& environment, const ThreadRequest& request) {
    ThreadChoice choice;
    choice.threads = request.wanted > 0 ? wanted_threads(environment, request, choice)
                                        : automatic_threads(environment, request, choice);
    if (environment.openmp_limit > 0 && environment.openmp_limit < choice.threads) {
        add(choice, Severity::warning,
            fmt::format("OMP_THREAD_LIMIT = {} allows no {} threads", environment.openmp_limit, choice.threads),
            "unset it");
        choice.threads = environment.openmp_limit;
    }
    if (!environment.bindings.empty()) {
        add(choice, Severity::note,
            fmt::format("{} not followed: moesaic binds its threads itself, to cores that the launcher gave",
                        fmt::join(environment.bindings, ", ")));
    }
    return choice;
}

}  // namespace moesaic::host
