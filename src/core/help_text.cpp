#include "core/help_text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

namespace moesaic::core {

std::vector<std::string> wrap(std::string_view text, std::size_t columns) {
    std::vector<std::string> lines;
    std::istringstream words{std::string(text)};
    for (std::string word; words >> word;) {
        if (lines.empty() || lines.back().size() + 1 + word.size() > columns) {
            lines.push_back(word);
        } else {
            lines.back() += " " + word;
        }
    }
    for (std::string& line : lines) {
        std::replace(line.begin(), line.end(), no_break, ' ');
    }
    return lines;
}

std::string help_row(std::string_view term, std::string_view meaning, std::size_t begin, std::size_t columns) {
    constexpr std::size_t least = 30;  // of the meaning, to stand beside its term
    constexpr std::size_t indent = 6;  // of the meaning, below it
    const bool is_beside = term.size() + 4 <= begin && begin + least <= columns;
    const std::string margin(is_beside ? begin : indent, ' ');
    const std::vector<std::string> lines = wrap(meaning, std::max(columns, margin.size() + 1) - margin.size());
    return fmt::format("  {:<{}}{}{}\n", term, is_beside ? begin - 2 : 0, is_beside ? "" : "\n" + margin,
                       fmt::join(lines, "\n" + margin));
}

}  // namespace moesaic::core
