// How much of a cache a thread can fill to measure how fast it is read.
#pragma once

#include "host/caches.hpp"

#include <optional>
#include <vector>

namespace moesaic::bench {

using core::index_t;

/// Bytes per thread that stay in each cache: half of the second level, and twice it in the third, if the third level
/// holds twice as much of all `threads` that run on a host. Nothing for a cache that is not there, or too small.
struct CacheWorkingSets {
    std::optional<index_t> second_level;
    std::optional<index_t> third_level;
};
[[nodiscard]] CacheWorkingSets working_sets(const std::vector<host::Cache>& caches, int units_per_core, int threads);

}  // namespace moesaic::bench
