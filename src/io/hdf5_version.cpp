#include "io/hdf5_version.hpp"

#include <fmt/format.h>

#include "io/hdf5.hpp"

namespace moesaic::io {

std::string hdf5_version() {
    unsigned major = 0;
    unsigned minor = 0;
    unsigned release = 0;
    hdf5::prepare_library();
    (void)H5get_libversion(&major, &minor, &release);
    return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace moesaic::io
