#include "model/decoder.hpp"
#include "../model/decoder.hpp"  // violation: relative path
