// Reports as files: one page of HTML, and the same as Markdown and CSV.
#pragma once

#include "report/document.hpp"

#include <filesystem>

namespace moesaic::app {

/// The report of a training run's output folder, or of a file that a benchmark wrote.
[[nodiscard]] report::Document describe(const std::filesystem::path& input);

/// Writes NAME.html, NAME.md and NAME.csv.
void write_report(const report::Document& document, const std::filesystem::path& name);

}  // namespace moesaic::app
