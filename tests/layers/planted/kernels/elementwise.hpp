#include <immintrin.h>  // violation: not a kernel file
#include <arm_neon.h>  // violation: not a kernel file
