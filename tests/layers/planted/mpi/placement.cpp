#include <mpi.h>
#include "host/placement.hpp"
#include <hwloc/bitmap.h>  // violation: belongs to src/host/topology.cpp
#include "ops/router.hpp"  // violation: upward
