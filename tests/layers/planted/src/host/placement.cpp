#include "core/error.hpp"
#include "mpi/communicator.hpp"  // violation: the host knows no MPI
#include "io/files.hpp"  // violation: sideways
