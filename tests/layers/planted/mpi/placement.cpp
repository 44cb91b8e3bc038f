#include <mpi.h>
#include <hwloc/bitmap.h>  // violation: belongs to topology.cpp
