// The caches of a processor as the operating system describes them.
#pragma once

#include "core/matrix.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::host {

using core::index_t;

struct Cache {
    int level = 0;
    std::string type;  ///< "data", "instruction", "unified"
    index_t bytes = 0;
    int shared_by = 1;  ///< processing units
    std::string units;  ///< which, as the system lists them
};

/// Caches of one processing unit, in the order of the system; none where it doesn't tell. `root` holds the folder sys
/// of Linux.
[[nodiscard]] std::vector<Cache> read_caches(int processing_unit, const std::filesystem::path& root = "/");

/// Bytes of all last-level caches that these processing units use; a guess where the operating system doesn't tell.
[[nodiscard]] index_t last_level_cache_bytes(const std::vector<int>& processing_units,
                                             const std::filesystem::path& root = "/");

}  // namespace moesaic::host
