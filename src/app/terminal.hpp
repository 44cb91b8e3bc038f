// What this program knows of the terminal that a person reads.
#pragma once

#include <cstddef>
#include <string>

namespace moesaic::app {

/// The terminal's file, if a person sees standard output as it comes; otherwise empty.
[[nodiscard]] std::string terminal_of_output();

/// Columns that a line on that terminal may fill.
[[nodiscard]] std::size_t columns_of(const std::string& terminal);

/// Columns for text of several lines: those that the variable COLUMNS asks for, or those of the terminal, but no more
/// than are read with ease.
[[nodiscard]] std::size_t columns_for_reading();

}  // namespace moesaic::app
