#include "io/sideways.hpp"
  #  include "kernels/kernel_set.hpp"  // violation: sideways
#include <hdf5.h>
#include <hwloc.h>  // violation: belongs to src/host/topology.cpp
#include "host/topology.hpp"  // violation: sideways
