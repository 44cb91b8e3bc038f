// Small files in which Linux describes the machine, below /proc, /sys and /etc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::host {

/// The first line of a file; nothing if it can't be read.
[[nodiscard]] std::optional<std::string> first_line(const std::filesystem::path& file);

/// What follows the first `separator` in the first line that begins with `key`, without blanks and quotes around it.
[[nodiscard]] std::optional<std::string> value_of(const std::filesystem::path& file, std::string_view key,
                                                  char separator);

/// The same in the part of /proc/cpuinfo that is about one processing unit; in the first one if it has none about it.
[[nodiscard]] std::optional<std::string> value_of_processor(const std::filesystem::path& cpuinfo, int processing_unit,
                                                            std::string_view key);

/// A number with an optional suffix K, as the system writes sizes; 0 if it is none.
[[nodiscard]] std::int64_t number_of(const std::string& text);

/// Processors in a list such as "0-3,8", of which there is one at least.
[[nodiscard]] std::int64_t count_of_list(const std::string& list);

/// What a folder holds, in alphabetical order; nothing if there is no such folder.
[[nodiscard]] std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder);

}  // namespace moesaic::host
