// The report of a training run, from what it left in its output folder.
#pragma once

#include "report/document.hpp"
#include "report/run_metrics.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moesaic::report {

/// What a training run says of itself.
struct RunRecord {
    std::filesystem::path folder;
    nlohmann::json json;  ///< run.json
    Metrics metrics;

    /// Of `json`, for errors.
    [[nodiscard]] std::string source() const { return (folder / "run.json").string(); }
    /// The folder's own.
    [[nodiscard]] std::string name() const {
        return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
    }
};

/// A folder without run.json throws with ExitCode::usage, a damaged one with ExitCode::corrupt_input.
[[nodiscard]] RunRecord read_run(const std::filesystem::path& folder);
/// Throughput, losses and exact answers at the end.
[[nodiscard]] std::vector<Headline> headlines_of(const RunRecord& run);

/// Reads run.json, metrics.jsonl, the names of checkpoints, and the trace: trace.json, or those of single ranks that a
/// run leaves which did not come to its end. Throws as `read_run` does; what is damaged elsewhere is left out, and the
/// document says so.
[[nodiscard]] Document describe_run(const std::filesystem::path& folder);
[[nodiscard]] Document describe_run(const RunRecord& record);

}  // namespace moesaic::report
