#include "mpi/communicator.hpp"
#include "kernels/kernel_set.hpp"
#include <mpi.h>  // violation: belongs to mpi
#include <H5Fpublic.h>  // violation: belongs to src/io
#include <train/session.hpp>  // violation: upward, with angle brackets
#include "io/hdf5.hpp"  // violation: private to src/io
#include "kernels/detail/micro_kernel.hpp"  // violation: private to kernels
