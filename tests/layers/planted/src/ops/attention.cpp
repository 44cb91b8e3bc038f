#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"  // violation: what is computed knows no model
#include "mpi/communicator.hpp"  // violation: nor other ranks
#include "io/safetensors.hpp"  // violation: nor files
