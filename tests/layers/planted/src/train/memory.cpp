#include "host/process_memory.hpp"
#include "bench/environment.hpp"  // violation: training needs no benchmarks
#include "measure/results.hpp"  // violation: sideways
