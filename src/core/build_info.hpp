// What this executable was built from and with.
#pragma once

#include <string_view>

namespace moesaic::core::build_info {

extern const std::string_view version;
extern const std::string_view git_revision;  ///< short hash, "-dirty" if the tree had changes, "unknown" without git
extern const std::string_view compiler;
extern const std::string_view build_type;
extern const std::string_view flags;

}  // namespace moesaic::core::build_info
