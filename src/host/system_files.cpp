#include "host/system_files.hpp"

#include "core/text.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>

namespace moesaic::host {

using std::filesystem::path;

std::optional<std::string> first_line(const path& file) {
    std::ifstream stream(file);
    std::string line;
    return std::getline(stream, line) ? std::optional(line) : std::nullopt;
}

namespace {

/// What follows the first `separator`, without blanks and quotes around it.
std::optional<std::string> value_in(const std::string& line, std::string_view key, char separator) {
    const std::size_t at = line.find(separator);
    if (!line.starts_with(key) || at == std::string::npos) {
        return std::nullopt;
    }
    const std::size_t begin = line.find_first_not_of(" \t\"", at + 1);
    const std::size_t end = line.find_last_not_of(" \t\"");
    return begin == std::string::npos ? "" : line.substr(begin, end - begin + 1);
}

}  // namespace

std::optional<std::string> value_of(const path& file, std::string_view key, char separator) {
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);) {
        if (auto value = value_in(line, key, separator)) {
            return value;
        }
    }
    return std::nullopt;
}

std::optional<std::string> value_of_processor(const path& cpuinfo, int processing_unit, std::string_view key) {
    std::ifstream stream(cpuinfo);
    std::optional<std::string> first;
    std::string processor;
    for (std::string line; std::getline(stream, line);) {
        processor = value_in(line, "processor", ':').value_or(processor);
        if (auto value = value_in(line, key, ':')) {
            if (processor == std::to_string(processing_unit)) {
                return value;
            }
            first = first ? first : value;
        }
    }
    return first;
}

std::int64_t number_of(const std::string& text) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error != std::errc() ? 0 : end != text.data() + text.size() && *end == 'K' ? value * 1024 : value;
}

std::int64_t count_of_list(const std::string& list) {
    std::int64_t count = 0;
    for (const std::string& range : core::split(list)) {
        const std::size_t dash = range.find('-');
        count +=
            dash == std::string::npos ? 1 : number_of(range.substr(dash + 1)) - number_of(range.substr(0, dash)) + 1;
    }
    return count;
}

std::vector<path> entries_of(const path& folder) {
    std::error_code error;
    std::vector<path> entries;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        entries.push_back(entry.path());
    }
    std::sort(entries.begin(), entries.end());
    return entries;
}

}  // namespace moesaic::host
