#include "io/json.hpp"
#include "host/placement.hpp"
#include "train/session.hpp"  // violation: sideways
#include "bench/benchmark.hpp"  // violation: upward
