#include "bench/caches.hpp"

#include "bench/system_files.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

namespace moesaic::bench {

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
        const std::int64_t shared_by = count_of_list(first_line(folder / "shared_cpu_list").value_or("0"));
        list.push_back({.level = static_cast<int>(number_of(*level)),
                        .type = type,
                        .bytes = number_of(first_line(folder / "size").value_or("")),
                        .shared_by = static_cast<int>(std::max<std::int64_t>(1, shared_by))});
    }
}

index_t last_level_cache_bytes() {
    constexpr index_t guess = index_t{64} << 20U;
    const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? bytes : guess;
}

}  // namespace moesaic::bench
