// Which HDF5 library this executable uses.
#pragma once

#include <string>

namespace moesaic::io {

/// Version of the HDF5 library that is in use, for example "1.10.8".
[[nodiscard]] std::string hdf5_version();

}  // namespace moesaic::io
