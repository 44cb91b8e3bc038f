// Lists as text.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace moesaic::core {

/// What stands between commas; one empty text if there is nothing.
[[nodiscard]] std::vector<std::string> split(const std::string& text);

/// "0-3,8" for {0, 1, 2, 3, 8}.
[[nodiscard]] std::string ranges(std::span<const int> ascending);

}  // namespace moesaic::core
