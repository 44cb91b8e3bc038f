// Reports as files: one page of HTML, and the same as Markdown and CSV.
#pragma once

#include "bench/document.hpp"

#include <filesystem>

namespace moesaic::app {

/// Writes NAME.html, NAME.md and NAME.csv.
void write_report(const bench::Document& document, const std::filesystem::path& name);

}  // namespace moesaic::app
