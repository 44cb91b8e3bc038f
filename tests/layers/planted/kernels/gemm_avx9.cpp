#include <cstdint>
#include <immintrin.h>
#include <vector>  // violation: inline functions compiled for a later CPU
#include "kernels/micro_kernel.hpp"
