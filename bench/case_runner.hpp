// Runs a list of benchmark cases: each is verified, measured and reported, and all go into one file.
#pragma once

#include "bench/cases.hpp"
#include "mpi/communicator.hpp"

#include <string>
#include <vector>

namespace moesaic::bench {

/// Collective. Prints tables and, at the end, figures; writes the files. Throws with ExitCode::verification_failed,
/// before any figure, if a case computes a wrong result. `command` and `deck` go into the file.
void run_cases(const mpi::Communicator& world, const std::vector<CaseSpec>& specs, const BenchOptions& options,
               const std::string& command, const std::string& deck);

}  // namespace moesaic::bench
