// Reports as files: one page of HTML, and the same as Markdown and CSV.
#pragma once

#include "report/document.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::app {

/// True for the output folder of a training run.
[[nodiscard]] bool is_run(const std::filesystem::path& input);

/// What there is to report on: a file is a result; of a folder, itself if it is that of a run, results of benchmarks in
/// it, and folders of runs in it, by name. A folder without any throws a usage error.
[[nodiscard]] std::vector<std::filesystem::path> inputs_of(const std::filesystem::path& input);

/// Writes NAME.html, NAME.md and NAME.csv.
void write_report(const report::Document& document, const std::filesystem::path& name);

/// Writes the report of a training run to NAME. Returns what went wrong, in one line, or an empty text: a run does not
/// fail for its report.
[[nodiscard]] std::string try_to_report(const std::filesystem::path& folder,
                                        const std::filesystem::path& name) noexcept;

}  // namespace moesaic::app
