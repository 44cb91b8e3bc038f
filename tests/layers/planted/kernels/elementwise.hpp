#include <immintrin.h>  // violation: not a kernel file
