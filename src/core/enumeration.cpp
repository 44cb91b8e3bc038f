#include "core/enumeration.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

namespace moesaic::core {

std::size_t find_name(std::string_view text, std::span<const std::string_view> names, std::string_view key,
                      std::string_view source) {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found == names.end()) {
        const std::string near = nearest(text, std::vector<std::string>(names.begin(), names.end()));
        fail(ExitCode::usage, "{} = {} must be one of {} ({}); {}", key, text, fmt::join(names, ", "), source,
             near.empty() ? "correct the value" : "did you mean " + near + "?");
    }
    return static_cast<std::size_t>(found - names.begin());
}

}  // namespace moesaic::core
