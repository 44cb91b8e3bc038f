#include "bench/working_sets.hpp"

#include <algorithm>

namespace moesaic::bench {

CacheWorkingSets working_sets(const std::vector<host::Cache>& caches, int units_per_core, int threads) {
    const auto cores_that_share = [&](const host::Cache& cache) {
        return std::max(1, cache.shared_by / units_per_core);
    };
    CacheWorkingSets sets;
    index_t of_core = 0;  // bytes of the second level
    for (const host::Cache& cache : caches) {
        if (cache.level == 2 && cache.bytes > 0 && cache.type != "instruction") {
            of_core = cache.bytes / cores_that_share(cache);
            sets.second_level = of_core / 2;
        }
    }
    for (const host::Cache& cache : caches) {
        const int sharing = std::min(threads, cores_that_share(cache));
        if (cache.level == 3 && of_core > 0 && 2 * 2 * of_core * sharing <= cache.bytes) {
            sets.third_level = 2 * of_core;
        }
    }
    return sets;
}

}  // namespace moesaic::bench
