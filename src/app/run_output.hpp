// The output folder of a training run: run.json, metrics.jsonl, trace.json, the report; and what is told meanwhile.
#pragma once

#include "app/folder_lock.hpp"
#include "app/metrics_file.hpp"
#include "app/progress.hpp"
#include "core/options.hpp"
#include "measure/trace_output.hpp"
#include "train/adapter_store.hpp"
#include "train/evaluation.hpp"
#include "train/memory_plan.hpp"
#include "train/runtime.hpp"
#include "train/session.hpp"

#include <cstdint>
#include <deque>
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
    bool keep_best = true;
    std::string resume = "auto";

    void declare(core::OptionSet& set);
};

/// Names of what a run leaves in its folder.
struct RunFolder {
    std::filesystem::path path;

    [[nodiscard]] std::filesystem::path run() const { return path / "run.json"; }
    /// The options of the run, as a file to start another one with.
    [[nodiscard]] std::filesystem::path configuration() const { return path / "run.cfg"; }
    [[nodiscard]] std::filesystem::path metrics() const { return path / "metrics.jsonl"; }
    [[nodiscard]] std::filesystem::path checkpoints() const { return path / "checkpoints"; }
    [[nodiscard]] std::filesystem::path adapter() const { return path / "adapter"; }
    [[nodiscard]] std::filesystem::path trace() const { return path / "trace.json"; }
    /// Of the report's files, without their ending.
    [[nodiscard]] std::filesystem::path report() const { return path / "report"; }
    /// Traces of single ranks, while the run lasts.
    [[nodiscard]] std::filesystem::path trace_parts() const { return path / "trace"; }
    /// Those that an earlier run left, until it is certain that this one begins.
    [[nodiscard]] std::filesystem::path earlier_trace_parts() const { return path / "trace.earlier"; }
};

/// What a run says of itself once all of its inputs are known.
struct RunDescription {
    std::string command_line;
    std::vector<core::OptionSet::Setting> settings;  ///< as they take effect
    train::MemoryPlan memory;
    nlohmann::ordered_json model;
    nlohmann::ordered_json lora;
    nlohmann::ordered_json data;
};

/// Where a session of the run begins and where the run ends.
struct RunSpan {
    index_t first_step = 0;  ///< steps that earlier sessions did
    index_t total_steps = 0;
    index_t steps_per_epoch = 1;
    bool resumed = false;
};

/// Collective to construct; files are written by rank 0. Until `begin` no file of an earlier run changes.
class RunOutput {
public:
    /// Takes the folder for this run, and begins to record what all ranks do.
    RunOutput(const train::Runtime& runtime, const OutputSettings& settings);
    ~RunOutput();
    RunOutput(const RunOutput&) = delete;
    RunOutput& operator=(const RunOutput&) = delete;

    [[nodiscard]] const RunFolder& folder() const noexcept { return folder_; }
    [[nodiscard]] Progress& progress() noexcept { return progress_; }
    /// Standard output can't be written any more.
    [[nodiscard]] bool is_silenced() const noexcept { return progress_.error().has_value(); }

    /// Collective. Whether an earlier session did all that was to do; if steps are left, as after early stopping, with
    /// the same settings.
    [[nodiscard]] bool was_completed(const std::vector<core::OptionSet::Setting>& settings, bool steps_left) const;
    /// What earlier sessions left.
    struct Earlier {
        train::EvaluationHistory evaluations;
        bool best_adapter_is_there = false;  ///< adapter/ is that of the best of these evaluations
    };
    /// Collective. Takes over what earlier sessions left, and writes run.json.
    Earlier begin(const RunSpan& span, const RunDescription& description);
    /// Collective, also after an error that all ranks agree on. If the run did not begin, no rank writes into the
    /// folder any more, which is as it was once this is destroyed.
    void withdraw();
    void record(const train::StepResult& result);
    void record(index_t step, const train::Evaluation& evaluation);
    /// Prints a line.
    void say(const std::string& line) { progress_.say(line); }

    /// Collective. Writes the trace, completes run.json with sums over all sessions, and writes the report. `end` is a
    /// value of run_keys::end. Returns the mean throughput of all sessions.
    double finish(const char* end, index_t last_step, index_t adapter_step,
                  const train::EvaluationHistory& evaluations);

private:
    /// Traces that a killed run left are out of the way until this run begins; or come back if it does not.
    void set_earlier_trace_aside() const;
    void bring_earlier_trace_back() const;
    /// Of earlier sessions of this run, which the trace goes on with; those of another run go.
    void take_over_traces(bool resumed);
    /// What is known of the process and its ranks.
    void describe_environment(const std::vector<std::string>& ranks);
    /// Adds this session to those of the file that is there, and says which options have changed since.
    void add_session(const RunSpan& span, const RunDescription& description);
    [[nodiscard]] nlohmann::json earlier_run() const;
    /// Whether the session before came to its end, and left the adapter of this step as its best.
    [[nodiscard]] bool left_best_adapter(index_t best_step) const;
    void write_run() const;
    /// Says which rank all others wait for, unless it said so of the same rank before.
    void report_straggler(const train::StepResult& result);
    void show_progress(const train::StepResult& result);
    void say_clocks();
    /// What was planned beside what ranks held.
    void say_memory();

    const train::Runtime& runtime_;
    RunFolder folder_;
    Progress progress_;
    std::optional<FolderLock> lock_;
    std::optional<MetricsFile> metrics_;
    std::optional<measure::TraceOutput> trace_;
    nlohmann::ordered_json run_ = nlohmann::ordered_json::object();
    nlohmann::ordered_json last_evaluation_ = nlohmann::ordered_json::object();  ///< for the totals
    RunSpan span_;
    bool begun_ = false;
    std::int64_t start_ns_;
    std::uint64_t memory_before_;     ///< of this rank, before the model
    double planned_bytes_ = 0;        ///< of a rank
    MetricsSums sums_before_;         ///< of earlier sessions
    std::deque<MetricsSums> latest_;  ///< of the latest steps, for the speed that is shown
    std::int32_t straggler_ = 0;
    std::int32_t reported_straggler_ = -1;
    index_t slow_steps_ = 0;   ///< in which `straggler_` was slow, without a break
    double busy_seconds_ = 0;  ///< in optimizer steps of this session
};

}  // namespace moesaic::app
