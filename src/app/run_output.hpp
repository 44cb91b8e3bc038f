// The output folder of a training run: run.json, metrics.jsonl, trace.json, the report; and the progress line.
#pragma once

#include "core/options.hpp"
#include "measure/trace_output.hpp"
#include "train/adapter_store.hpp"
#include "train/evaluation.hpp"
#include "train/memory_plan.hpp"
#include "train/runtime.hpp"
#include "train/session.hpp"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::app {

using core::index_t;

/// What a run leaves, and what it takes up.
struct OutputSettings {
    std::string directory;
    bool trace = true;
    train::AdapterLayout adapter_layout = train::AdapterLayout::per_expert;
    index_t checkpoint_keep = 2;
    std::string resume = "auto";

    void declare(core::OptionSet& set);
};

/// Names of what a run leaves in its folder.
struct RunFolder {
    std::filesystem::path path;

    [[nodiscard]] std::filesystem::path run() const { return path / "run.json"; }
    [[nodiscard]] std::filesystem::path metrics() const { return path / "metrics.jsonl"; }
    [[nodiscard]] std::filesystem::path checkpoints() const { return path / "checkpoints"; }
    [[nodiscard]] std::filesystem::path adapter() const { return path / "adapter"; }
    [[nodiscard]] std::filesystem::path trace() const { return path / "trace.json"; }
    /// Of the report's files, without their ending.
    [[nodiscard]] std::filesystem::path report() const { return path / "report"; }
    /// Traces of single ranks, while the run lasts.
    [[nodiscard]] std::filesystem::path trace_parts() const { return path / "trace"; }
};

/// Collective to construct; files are written by rank 0.
class RunOutput {
public:
    /// Creates the folder and writes run.json with the configuration and the environment of all ranks.
    RunOutput(const train::Runtime& runtime, const std::string& folder,
              const std::vector<core::OptionSet::Setting>& settings);
    ~RunOutput();
    RunOutput(const RunOutput&) = delete;
    RunOutput& operator=(const RunOutput&) = delete;

    [[nodiscard]] const RunFolder& folder() const noexcept { return folder_; }

    /// Collective. Opens metrics.jsonl; lines of steps after `first_step` are dropped, because a resumed run computes
    /// them again. `total_steps` is what the progress line counts to.
    void begin_metrics(index_t first_step, index_t total_steps);
    void record(const train::StepResult& result);
    void record(index_t step, const train::Evaluation& evaluation);
    /// Prints a line of its own, after ending an unfinished progress line.
    void say(const std::string& line);

    /// What the report compares the used memory with.
    void set_memory_plan(const train::MemoryPlan& plan);
    /// Collective. Begins to record what all ranks do.
    void begin_trace();
    /// Collective. Writes the trace, adds `totals` to run.json, and writes the report.
    void finish(const nlohmann::json& totals);

private:
    void write_line(const nlohmann::ordered_json& line);
    /// Says which rank all others wait for, unless it said so of the same rank before.
    void report_straggler(const train::StepResult& result);
    void show_progress(const train::StepResult& result);
    void say_clocks();

    const train::Runtime& runtime_;
    RunFolder folder_;
    nlohmann::ordered_json run_;
    std::optional<measure::TraceOutput> trace_;
    std::FILE* metrics_ = nullptr;
    index_t first_step_ = 0;
    index_t total_steps_ = 0;
    std::int64_t shown_ns_ = 0;
    std::int32_t straggler_ = 0;
    std::int32_t reported_straggler_ = -1;
    index_t slow_steps_ = 0;   ///< in which `straggler_` was slow, without a break
    double busy_seconds_ = 0;  ///< in optimizer steps
    bool terminal_;
    bool line_open_ = false;
};

}  // namespace moesaic::app
