// Turns return codes of MPI into errors.
#pragma once

namespace moesaic::mpi {

/// Throws a run-time failure that names `operation`, for example "MPI_Bcast", unless `status` is MPI_SUCCESS.
void check(int status, const char* operation);

}  // namespace moesaic::mpi
