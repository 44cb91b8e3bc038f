// Lists and sizes as text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {

/// What stands between commas; one empty text if there is nothing.
[[nodiscard]] std::vector<std::string> split(const std::string& text);

/// "0-3,8" for {0, 1, 2, 3, 8}.
[[nodiscard]] std::string ranges(std::span<const int> ascending);

/// A whole number, of bytes or of anything, that may be written with K, M, G or T for powers of 1024, and B or iB after
/// those: "4096", "4K", "1.5GiB". Nothing if the text is none.
[[nodiscard]] std::optional<std::int64_t> parse_size(std::string_view text);

}  // namespace moesaic::core
