// Which HDF5 library this executable uses.
#pragma once

#include <string>

namespace moesaic::io {

[[nodiscard]] std::string hdf5_version();

}  // namespace moesaic::io
