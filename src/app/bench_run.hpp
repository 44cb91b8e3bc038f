// Runs a list of benchmark cases: each is verified, measured and reported, and all go into one file.
#pragma once

#include "app/benchmarks.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::app {

/// A case as the user describes it; with several numbers of ranks or threads it is run with each.
struct CaseSpec {
    CaseSpec(const BenchmarkKind& kind_in, std::string name_in);

    /// Declares all its options; `prefix` goes before their keys.
    void declare(core::OptionSet& set, const std::string& prefix);
    /// Throws usage errors. `world_ranks` are there.
    void check(index_t world_ranks) const;

    const BenchmarkKind* kind;
    std::string name;
    std::unique_ptr<BenchmarkOptions> options;
    std::string ranks = "all";
    std::string threads;
    kernels::ComputeSettings compute;
    std::vector<std::pair<std::string, std::string>> parameters = {};  ///< options as used
};

/// Options of all cases together.
struct BenchOptions {
    bench::Repetition repetition;
    std::string output;
    std::string google_output;
    std::string turns;  ///< pipes of bench::Turns, or empty

    void declare(core::OptionSet& set);
    /// Throws a usage error now rather than after the measurements.
    void check_output() const;
};

/// Collective. Prints tables and, at the end, figures; writes the files. Throws with ExitCode::verification_failed,
/// before any figure, if a case computes a wrong result. `command` and `deck` go into the file.
void run_cases(const mpi::Communicator& world, const std::vector<CaseSpec>& specs, const BenchOptions& options,
               const std::string& command, const std::string& deck);

}  // namespace moesaic::app
