// Help in two columns that fit into a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {

/// A blank at which lines are not broken.
inline constexpr char no_break = '\x1f';

/// Lines of at most `columns` characters of ASCII text, broken at blanks; a word that is longer has a line of its own.
[[nodiscard]] std::vector<std::string> wrap(std::string_view text, std::size_t columns);

/// A term, indented by two, and what it means: beside it, from column `begin` on, or below it where that has no room.
[[nodiscard]] std::string help_row(std::string_view term, std::string_view meaning, std::size_t begin,
                                   std::size_t columns);

}  // namespace moesaic::core
