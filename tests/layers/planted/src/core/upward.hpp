// Never compiled: what the layer check must find.
#include "core/matrix.hpp"
#include "model/decoder.hpp"  // violation: upward
#include <string>
