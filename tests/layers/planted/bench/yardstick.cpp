#include <dnnl.hpp>          // violation: wrapped by bench/onednn.cpp
#include "app/command.hpp"   // violation: app is above bench
#include "model/router.hpp"
