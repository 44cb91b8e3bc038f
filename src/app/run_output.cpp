#include "app/run_output.hpp"

#include "app/report_page.hpp"
#include "core/build_info.hpp"
#include "core/error.hpp"
#include "core/trace.hpp"
#include "host/process_memory.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "report/run_page.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>

namespace moesaic::app {
namespace {

namespace keys = measure::run_keys;
using core::trace::now_ns;

/// Metrics of an earlier run may be long, but not unbounded.
constexpr std::size_t metrics_limit = std::size_t{1} << 30U;

std::string utc_now() {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now()));
}

nlohmann::ordered_json describe(const train::Runtime& runtime) {
    const host::Placement& p = runtime.placement;
    return {{keys::rank, p.rank},
            {keys::host, p.host},
            {keys::numa_nodes, p.numa_nodes},
            {keys::cores, p.cores},
            {keys::threads, p.threads},
            {keys::threads_bound, runtime.threads_bound},
            {keys::memory_bytes, p.memory_bytes}};
}

/// True if a person sees standard output as it comes. mpirun gives its ranks a terminal of their own, whatever it does
/// with their output: the parent process must write to a terminal too.
bool output_is_terminal() {
    std::error_code error;
    const std::string parent = "/proc/" + std::to_string(getppid()) + "/fd/1";
    const std::string target = std::filesystem::read_symlink(parent, error).string();
    return isatty(STDOUT_FILENO) != 0 && (target.starts_with("/dev/pts/") || target.starts_with("/dev/tty"));
}

/// Lines of an older metrics file up to and including `last_step`; an unfinished last line is dropped too. A run that
/// was complete is evaluated again, so its last evaluation is not kept.
std::string kept_metrics(const std::filesystem::path& file, index_t last_step, index_t total_steps) {
    std::string kept;
    if (last_step == 0 || !std::filesystem::exists(file)) {
        return kept;
    }
    const std::string text = io::read_file(file, metrics_limit);
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = text.find('\n', begin);
        if (end == std::string::npos) {
            break;
        }
        const std::string line = text.substr(begin, end - begin);
        const nlohmann::json entry = io::parse_json(line, file.string());
        const auto step = io::get<index_t>(entry, keys::step, file.string());
        const bool repeated = step >= total_steps && entry.contains(keys::eval_loss);
        if (step <= last_step && !repeated) {
            kept += line + '\n';
        }
        begin = end + 1;
    }
    return kept;
}

}  // namespace

void OutputSettings::declare(core::OptionSet& set) {
    set.add("output.dir", directory, "folder for metrics, checkpoints, adapter, trace and report");
    set.add("output.trace", trace, "record and write trace.json");
    set.add_enum("output.adapter_layout", adapter_layout,
                 "per-expert: a pair of factors for each expert's projection; fused: as PEFT adapts fused experts");
    set.add("output.checkpoint_keep", checkpoint_keep, "newest checkpoints to keep", core::at_least(1));
    set.add("output.resume", resume, "auto: from the latest checkpoint in output.dir; never; or a checkpoint file");
}

RunOutput::RunOutput(const train::Runtime& runtime, const std::string& folder,
                     const std::vector<core::OptionSet::Setting>& settings)
    : runtime_(runtime), folder_{folder}, terminal_(output_is_terminal()) {
    const std::vector<std::string> ranks = runtime.world.gather(describe(runtime).dump());
    runtime.world.agree([&] {
        core::require_set("output.dir", folder);
        if (!runtime.world.is_root()) {
            return;
        }
        run_[keys::started] = utc_now();
        run_[keys::version] = core::build_info::version;
        run_[keys::git_revision] = core::build_info::git_revision;
        run_[keys::compiler] =
            fmt::format("{} {} {}", core::build_info::compiler, core::build_info::build_type, core::build_info::flags);
        run_[keys::mpi] = mpi::Environment::library_version();
        run_[keys::transport] = mpi::Environment::transport();
        run_[keys::kernels] = {{"bf16", runtime.kernels.gemm_name<core::bf16>()},
                               {"fp32", runtime.kernels.gemm_name<float>()}};
        run_[keys::grid] = {{"data", runtime.grid.data().size()},
                            {"expert", runtime.grid.expert().size()},
                            {"tensor", runtime.grid.tensor().size()}};
        for (const std::string& rank : ranks) {
            run_[keys::ranks].push_back(nlohmann::ordered_json::parse(rank));
        }
        for (const core::OptionSet::Setting& setting : settings) {
            run_[keys::configuration][setting.key] = setting.value;
        }
        io::create_folder(folder_.path);
        io::write_file_atomically(folder_.run(), run_.dump(2) + "\n");
    });
}

RunOutput::~RunOutput() {
    if (metrics_ != nullptr) {
        std::fclose(metrics_);
    }
}

void RunOutput::begin_metrics(index_t first_step, index_t total_steps) {
    first_step_ = first_step;
    total_steps_ = total_steps;
    runtime_.world.agree([&] {
        if (runtime_.world.is_root()) {
            io::write_file_atomically(folder_.metrics(), kept_metrics(folder_.metrics(), first_step, total_steps));
            metrics_ = std::fopen(folder_.metrics().c_str(), "a");
            if (metrics_ == nullptr) {
                io::fail_writing(folder_.metrics(), errno);
            }
        }
    });
}

void RunOutput::write_line(const nlohmann::ordered_json& line) {
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), metrics_) != text.size() || std::fflush(metrics_) != 0) {
        io::fail_writing(folder_.metrics(), errno);
    }
}

void RunOutput::record(const train::StepResult& result) {
    if (!runtime_.world.is_root()) {
        return;
    }
    const train::Decision& decision = result.decision;
    nlohmann::ordered_json line = {{keys::step, result.step},
                                   {keys::loss, decision.loss},
                                   {keys::grad_norm, decision.gradient_norm},
                                   {keys::lr, result.learning_rate},
                                   {keys::tokens, decision.tokens},
                                   {keys::target_tokens, decision.target_tokens},
                                   {keys::seconds, result.seconds},
                                   {keys::tokens_per_second, static_cast<double>(decision.tokens) / result.seconds},
                                   {keys::skipped, !decision.apply},
                                   {keys::expert_load_ratio, result.expert_load.largest_ratio},
                                   {keys::unused_experts, result.expert_load.unused}};
    if (runtime_.world.size() > 1) {
        line[keys::slowest_rank] = decision.slowest_rank;
        line[keys::slowness] = decision.slowness;
    }
    if (result.auxiliary_loss) {
        line[keys::aux_loss] = *result.auxiliary_loss;
    }
    write_line(line);
    report_straggler(result);
    show_progress(result);
}

void RunOutput::report_straggler(const train::StepResult& result) {
    constexpr double slow = 3;           // times as long as the median of the other ranks
    constexpr index_t steps_in_row = 3;  // one slow step may be chance
    const train::Decision& decision = result.decision;
    const bool repeats = decision.slowness >= slow && (slow_steps_ == 0 || decision.slowest_rank == straggler_);
    straggler_ = decision.slowest_rank;
    slow_steps_ = repeats ? slow_steps_ + 1 : 0;
    if (slow_steps_ >= steps_in_row && straggler_ != reported_straggler_) {
        reported_straggler_ = straggler_;
        say(fmt::format("step {}: rank {} on {} is slow: it computes {:.1f} times as long as the median of the others",
                        result.step, straggler_, run_[keys::ranks][static_cast<std::size_t>(straggler_)][keys::host],
                        decision.slowness));
    }
}

void RunOutput::record(index_t step, const train::Evaluation& evaluation) {
    if (!runtime_.world.is_root()) {
        return;
    }
    write_line({{keys::step, step},
                {keys::eval_loss, evaluation.loss()},
                {keys::eval_exact, evaluation.exact_percent()},
                {keys::eval_tokens, evaluation.target_tokens}});
    say(fmt::format("step {}: eval loss {:.4f}, exact {:.1f} % of {} sequences", step, evaluation.loss(),
                    evaluation.exact_percent(), evaluation.sequences));
}

void RunOutput::show_progress(const train::StepResult& result) {
    constexpr std::int64_t terminal_interval_ns = 100'000'000;
    constexpr std::int64_t log_interval_ns = 5'000'000'000;
    const std::int64_t now = now_ns();
    const bool last = result.step == total_steps_;
    busy_seconds_ += result.seconds;
    if (!last && now - shown_ns_ < (terminal_ ? terminal_interval_ns : log_interval_ns)) {
        return;
    }
    shown_ns_ = now;
    const double per_step = busy_seconds_ / static_cast<double>(result.step - first_step_);
    const auto remaining = static_cast<std::int64_t>(per_step * static_cast<double>(total_steps_ - result.step));
    fmt::print("{}step {}/{}  loss {:.4f}  {:.0f} tokens/s  ETA {}:{:02}:{:02}{}", terminal_ ? "\r\x1b[K" : "",
               result.step, total_steps_, result.decision.loss,
               static_cast<double>(result.decision.tokens) / result.seconds, remaining / 3600, remaining / 60 % 60,
               remaining % 60, terminal_ ? "" : "\n");
    std::fflush(stdout);
    line_open_ = terminal_;
}

void RunOutput::say(const std::string& line) {
    if (runtime_.world.is_root()) {
        fmt::print("{}{}\n", line_open_ ? "\n" : "", line);
        std::fflush(stdout);
        line_open_ = false;
    }
}

void RunOutput::set_memory_plan(const train::MemoryPlan& plan) {
    for (const train::MemoryPlan::Item& item : plan.items) {
        run_[keys::memory_plan].push_back({{keys::purpose, item.purpose}, {keys::bytes, item.bytes}});
    }
}

void RunOutput::begin_trace() {
    trace_.emplace(runtime_.world, runtime_.placement, runtime_.threads_bound, folder_.trace_parts());
}

void RunOutput::finish(const nlohmann::json& totals) {
    if (trace_) {
        run_[keys::trace] = trace_->join(folder_.trace());
        trace_.reset();
    }
    const auto peaks = runtime_.world.all_gather(static_cast<std::int64_t>(host::peak_memory_bytes()));
    runtime_.world.agree([&] {
        if (runtime_.world.is_root()) {
            for (std::size_t rank = 0; rank < peaks.size(); ++rank) {
                run_[keys::ranks][rank][keys::peak_memory_bytes] = peaks[rank];
            }
            run_[keys::finished] = utc_now();
            run_[keys::totals] = totals;
            io::write_file_atomically(folder_.run(), run_.dump(2) + "\n");
            write_report(report::describe_run(folder_.path), folder_.report());
        }
    });
    if (runtime_.world.size() > 1 && run_.contains(keys::trace)) {
        say_clocks();
    }
}

void RunOutput::say_clocks() {
    double error_us = 0;
    double drift_ppm = 0;
    for (const auto& rank : run_[keys::trace]) {
        error_us = std::max(error_us, rank[keys::error_us].get<double>());
        drift_ppm = std::max(drift_ppm, std::abs(rank[keys::drift_ppm].get<double>()));
    }
    say(fmt::format("trace: clocks of all ranks agree within {:.2f} us; corrected for a drift of up to {:.3f} ppm",
                    error_us, drift_ppm));
}

}  // namespace moesaic::app
