#include <arm_sve.h>
#include <algorithm>  // violation: inline functions compiled for a later CPU, of Arm
#include "kernels/detail/entries.hpp"
