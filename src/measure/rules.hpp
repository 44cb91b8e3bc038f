// Whether a file holds results, and whether these keep the rules of docs/results.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::measure {

/// True for results of any version, by how they begin.
[[nodiscard]] bool looks_like_results(const std::filesystem::path& file);

/// Rules that the results break, each as a line that names the case and the figure; none if all is well. What can't be
/// read at all throws as `read_results` does.
[[nodiscard]] std::vector<std::string> broken_rules(const std::filesystem::path& file);

}  // namespace moesaic::measure
