#include "host/caches.hpp"

#include "host/system_files.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <numeric>

namespace moesaic::host {

std::vector<Cache> read_caches(int processing_unit, const std::filesystem::path& root) {
    std::vector<Cache> list;
    for (int index = 0;; ++index) {
        const auto folder = root / fmt::format("sys/devices/system/cpu/cpu{}/cache/index{}", processing_unit, index);
        const auto level = first_line(folder / "level");
        if (!level) {
            return list;
        }
        std::string type = first_line(folder / "type").value_or("unknown");
        std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
        const std::string units = first_line(folder / "shared_cpu_list").value_or("0");
        list.push_back({.level = static_cast<int>(number_of(*level)),
                        .type = type,
                        .bytes = number_of(first_line(folder / "size").value_or("")),
                        .shared_by = static_cast<int>(std::max<std::int64_t>(1, count_of_list(units))),
                        .units = units});
    }
}

index_t last_level_cache_bytes(const std::vector<int>& processing_units, const std::filesystem::path& root) {
    constexpr index_t guess = index_t{64} << 20U;
    std::map<std::string, index_t> bytes;  // of the caches of the third level, by their processing units
    for (const int unit : processing_units) {
        for (const Cache& cache : read_caches(unit, root)) {
            if (cache.level == 3) {
                bytes[cache.units] = cache.bytes;
            }
        }
    }
    const index_t sum = std::accumulate(bytes.begin(), bytes.end(), index_t{0},
                                        [](index_t before, const auto& cache) { return before + cache.second; });
    const long of_one = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return sum > 0 ? sum : of_one > 0 ? of_one : guess;
}

}  // namespace moesaic::host
