// Output of a job: one rank speaks for all.
#pragma once

#include "mpi/communicator.hpp"

#include <string_view>

namespace moesaic::mpi {

/// Prints on rank 0 only, as core::print.
void print(const Communicator& world, std::string_view text);

}  // namespace moesaic::mpi
