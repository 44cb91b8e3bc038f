#include <algorithm>
#include <charconv>
#include <system_error>

#include "core/error.hpp"
#include "io/checkpoint.hpp"
#include "io/files.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::require;

constexpr std::string_view prefix = "step-";
constexpr std::string_view suffix = ".h5";
constexpr std::string_view partial_suffix = ".h5.partial";
constexpr const char* latest_name = "latest";
/// Longest content of `latest` that is looked at, in bytes.
constexpr std::size_t max_latest_bytes = 256;

std::string step_name(std::int64_t step) {
    return fmt::format("{}{:08}{}", prefix, step, suffix);
}

/// The step in a name exactly as `step_name` makes it.
std::optional<std::int64_t> parse_step(std::string_view name) {
    if (!name.starts_with(prefix) || !name.ends_with(suffix) || name.size() <= prefix.size() + suffix.size()) {
        return std::nullopt;
    }
    const std::string_view digits = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    std::int64_t step = -1;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), step);
    return result.ec == std::errc() && step >= 0 && step_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<std::string> regular_files(const std::filesystem::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    std::filesystem::directory_iterator entry(folder, error);
    if (error == std::errc::no_such_file_or_directory) {
        return names;
    }
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        std::error_code no_status;
        if (entry->is_regular_file(no_status)) {
            names.push_back(entry->path().filename().string());
        }
    }
    if (error) {
        fail_reading(folder, error.value());
    }
    return names;
}

void remove_file(const std::filesystem::path& file) {
    std::error_code error;
    std::filesystem::remove(file, error);
    if (error) {
        fail_writing(file, error.value());
    }
}

}  // namespace

CheckpointFolder::CheckpointFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

std::filesystem::path CheckpointFolder::file_for_step(std::int64_t step) const {
    require(step >= 0, ExitCode::runtime_failure, "can't name a checkpoint (its step is {}); report this", step);
    return folder_ / step_name(step);
}

std::vector<std::int64_t> CheckpointFolder::steps() const {
    std::vector<std::int64_t> result;
    for (const std::string& name : regular_files(folder_)) {
        if (const auto step = parse_step(name)) {
            result.push_back(*step);
        }
    }
    std::sort(result.begin(), result.end());
    return result;
}

std::optional<std::filesystem::path> CheckpointFolder::latest() const {
    const std::vector<std::int64_t> present = steps();
    std::error_code error;
    const std::filesystem::path pointer = folder_ / latest_name;
    const auto size = std::filesystem::file_size(pointer, error);
    if (!error && size <= max_latest_bytes) {
        std::string name = read_file(pointer, max_latest_bytes);
        name.erase(name.find_last_not_of(" \t\r\n") + 1);
        const auto step = parse_step(name);
        if (step && std::binary_search(present.begin(), present.end(), *step)) {
            return folder_ / name;
        }
    }
    return present.empty() ? std::nullopt : std::optional(file_for_step(present.back()));
}

void CheckpointFolder::publish(std::int64_t step, int keep) const {
    require(keep >= 1, ExitCode::usage,
            "can't keep {} checkpoints (one is needed to resume); set output.checkpoint_keep", keep);
    const std::vector<std::int64_t> present = steps();
    require(std::binary_search(present.begin(), present.end(), step), ExitCode::runtime_failure,
            "can't publish {} (there is no such file); report this", file_for_step(step).string());
    write_file_atomically(folder_ / latest_name, step_name(step) + '\n');

    // Later steps are those of an older run in this folder: they stay, and take no place from the present run.
    const auto end = std::upper_bound(present.begin(), present.end(), step);
    const auto kept = std::min(static_cast<std::ptrdiff_t>(keep), end - present.begin());
    for (auto old = present.begin(); old != end - kept; ++old) {
        remove_file(file_for_step(*old));
    }
    for (const std::string& name : regular_files(folder_)) {
        if (name.starts_with(prefix) && name.ends_with(partial_suffix)) {
            remove_file(folder_ / name);
        }
    }
}

}  // namespace moesaic::io
