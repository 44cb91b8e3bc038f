#include "measure/results.hpp"
#include "bench/benchmark.hpp"  // violation: sideways
