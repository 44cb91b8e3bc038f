#include "app/run_output.hpp"

#include "app/report_page.hpp"
#include "core/build_info.hpp"
#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/trace.hpp"
#include "core/units.hpp"
#include "host/process_memory.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "measure/joined_trace.hpp"
#include "measure/run_keys.hpp"
#include "train/adapter_store.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace moesaic::app {
namespace {

namespace keys = measure::run_keys;
using core::trace::now_ns;

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

/// Options whose value does not matter to what is learned.
bool is_incidental(const std::string& key) {
    return key.starts_with("output.") || key.starts_with("parallel.") || key == "compute.isa" ||
           key == "train.micro_batch" || key == "train.activations";
}

struct ChangedSetting {
    std::string key;
    std::string before;
    std::string now;
};

/// Options that an earlier session of the run had otherwise.
std::vector<ChangedSetting> changed_settings(const nlohmann::json& earlier,
                                             const std::vector<core::OptionSet::Setting>& settings) {
    std::vector<ChangedSetting> changed;
    const auto options = earlier.find(keys::configuration);
    for (const core::OptionSet::Setting& setting : settings) {
        if (options == earlier.end() || !options->is_object() || is_incidental(setting.key)) {
            continue;
        }
        const auto before = options->find(setting.key);
        if (before != options->end() && before->is_string() && *before != setting.value) {
            changed.push_back({setting.key, before->get<std::string>(), setting.value});
        }
    }
    return changed;
}

}  // namespace

void OutputSettings::declare(core::OptionSet& set) {
    set.add_path("output.dir", directory, "folder for metrics, checkpoints, adapter, trace and report")
        .known_as({"output_dir", "out_dir", "save_dir"});
    set.add_path("output.resume", resume, "auto: from the latest checkpoint in output.dir; never; or a checkpoint file")
        .known_as({"resume_from_checkpoint", "resume", "overwrite_output_dir"}, "auto, never or a checkpoint file");
    set.add("output.checkpoint_keep", checkpoint_keep, "how many checkpoints to keep, the newest ones",
            core::at_least(1))
        .known_as({"save_total_limit"});
    set.add("output.keep_best", keep_best,
            "keep the adapter of the evaluation with the lowest loss; otherwise, and without evaluations, that of the "
            "last step")
        .known_as({"load_best_model_at_end", "metric_for_best_model"});
    set.add_enum("output.adapter_layout", adapter_layout,
                 "per-expert: a pair of factors for each expert's projection; fused: as PEFT adapts fused experts");
    set.add("output.trace", trace, "record and write trace.json");
    set.explain({"logging_steps", "logging_strategy", "log_every", "report_to", "logging_dir", "use_wandb"},
                "metrics.jsonl in output.dir has every step; docs/reports.md says how to take it elsewhere");
}

RunOutput::RunOutput(const train::Runtime& runtime, const OutputSettings& settings)
    : runtime_(runtime),
      folder_{settings.directory},
      progress_(runtime.world.is_root()),
      start_ns_(now_ns()),
      memory_before_(host::proportional_memory_bytes()) {
    runtime.world.agree([&] {
        if (runtime.world.is_root()) {
            lock_.emplace(folder_.path);
            set_earlier_trace_aside();
        }
    });
    if (settings.trace) {
        trace_.emplace(runtime.world, runtime.placement, runtime.threads_bound, folder_.trace_parts());
    }
}

RunOutput::~RunOutput() {
    trace_.reset();
    if (lock_ && !begun_) {
        bring_earlier_trace_back();
    }
}

void RunOutput::set_earlier_trace_aside() const {
    std::error_code ignored;  // there is none, mostly
    if (std::filesystem::exists(folder_.earlier_trace_parts())) {
        std::filesystem::remove_all(folder_.trace_parts(), ignored);  // of a run that was killed before it began
    } else {
        std::filesystem::rename(folder_.trace_parts(), folder_.earlier_trace_parts(), ignored);
    }
}

void RunOutput::bring_earlier_trace_back() const {
    std::error_code ignored;
    std::filesystem::remove_all(folder_.trace_parts(), ignored);
    std::filesystem::rename(folder_.earlier_trace_parts(), folder_.trace_parts(), ignored);
}

nlohmann::json RunOutput::earlier_run() const {
    try {
        return io::read_json(folder_.run());
    } catch (const core::Error&) {
        return nlohmann::json::object();  // none, or damaged: nothing depends on it but the list of sessions
    }
}

bool RunOutput::was_completed(const std::vector<core::OptionSet::Setting>& settings, bool steps_left) const {
    bool completed = false;
    if (runtime_.world.is_root()) {
        const nlohmann::json earlier = earlier_run();
        const auto sessions = earlier.find(keys::sessions);
        completed = sessions != earlier.end() && sessions->is_array() && !sessions->empty() &&
                    sessions->back().is_object() && sessions->back().value(keys::end, "") == keys::end_complete &&
                    (!steps_left || changed_settings(earlier, settings).empty());
    }
    runtime_.world.broadcast(std::span<bool>(&completed, 1));
    return completed;
}

void RunOutput::describe_environment(const std::vector<std::string>& ranks) {
    run_[keys::version] = core::build_info::version;
    run_[keys::git_revision] = core::build_info::git_revision;
    run_[keys::compiler] =
        fmt::format("{} {} {}", core::build_info::compiler, core::build_info::build_type, core::build_info::flags);
    run_[keys::mpi] = mpi::Environment::library_version();
    run_[keys::transport] = mpi::Environment::transport();
    run_[keys::kernels] = {{"bf16", runtime_.kernels.gemm_name<core::bf16>()},
                           {"fp32", runtime_.kernels.gemm_name<float>()}};
    run_[keys::grid] = {{"data", runtime_.grid.data().size()},
                        {"expert", runtime_.grid.expert().size()},
                        {"tensor", runtime_.grid.tensor().size()}};
    auto list = nlohmann::ordered_json::array();
    for (const std::string& rank : ranks) {
        list.push_back(nlohmann::ordered_json::parse(rank));
    }
    run_[keys::ranks] = std::move(list);
}

void RunOutput::add_session(const RunSpan& span, const RunDescription& description) {
    const std::string start = utc_now();
    nlohmann::ordered_json session = {{keys::started, start},
                                      {keys::command_line, description.command_line},
                                      {keys::working_directory, std::filesystem::current_path().string()},
                                      {keys::ranks, runtime_.world.size()},
                                      {keys::threads, runtime_.placement.threads},
                                      {keys::first_step, span.first_step}};
    const nlohmann::json earlier = span.resumed ? earlier_run() : nlohmann::json::object();
    const auto member = [&](const char* key) { return earlier.contains(key) ? earlier[key] : nlohmann::json(); };
    auto changes = nlohmann::ordered_json::object();
    for (const auto& [key, before, now] : changed_settings(earlier, description.settings)) {
        changes[key] = {before, now};
        say(fmt::format("{}: {} -> {}", key, core::printable(before), now));
    }
    if (!changes.empty()) {
        session[keys::changed] = std::move(changes);
    }
    run_[keys::started] = member(keys::started).is_string() ? member(keys::started).get<std::string>() : start;
    run_[keys::sessions] = member(keys::sessions).is_array() ? member(keys::sessions) : nlohmann::json::array();
    run_[keys::sessions].push_back(session);
}

void RunOutput::write_run() const {
    io::write_file_atomically(folder_.run(), run_.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

bool RunOutput::left_best_adapter(index_t best_step) const {
    // A session that was killed may have left the adapter of a later step than its last checkpoint.
    return best_step > 0 && train::adapter_step(folder_.adapter()) == best_step;
}

RunOutput::Earlier RunOutput::begin(const RunSpan& span, const RunDescription& description) {
    span_ = span;
    planned_bytes_ = description.memory.total();
    const std::vector<std::string> ranks = runtime_.world.gather(describe(runtime_).dump());
    Earlier left;
    runtime_.world.agree([&] {
        if (!runtime_.world.is_root()) {
            return;
        }
        metrics_.emplace(folder_.metrics(), span.first_step, span.resumed);
        sums_before_ = metrics_->sums();
        left.evaluations = metrics_->evaluations();
        left.best_adapter_is_there = span.resumed && left_best_adapter(left.evaluations.best_step);
        if (metrics_->damaged_lines() > 0) {
            say(fmt::format("{}: dropped {} (no JSON with the keys of metrics)", folder_.metrics().string(),
                            core::counted(metrics_->damaged_lines(), "damaged line")));
        }
        add_session(span, description);
        describe_environment(ranks);
        auto configuration = nlohmann::ordered_json::object();
        for (const core::OptionSet::Setting& setting : description.settings) {
            configuration[setting.key] = setting.value;
        }
        run_[keys::configuration] = std::move(configuration);
        run_[keys::model] = description.model;
        run_[keys::lora] = description.lora;
        run_[keys::data] = description.data;
        auto memory = nlohmann::ordered_json::array();
        for (const train::MemoryPlan::Item& item : description.memory.items) {
            memory.push_back({{keys::purpose, item.name()}, {keys::bytes, item.bytes}});
        }
        run_[keys::memory_plan] = std::move(memory);
        write_run();
        io::write_file_atomically(
            folder_.configuration(),
            fmt::format("# {}\n{}", description.command_line, core::OptionSet::to_config(description.settings)));
        take_over_traces(span.resumed);
    });
    begun_ = true;
    if (trace_) {
        trace_->follow(folder_.trace());
    }
    runtime_.world.broadcast(std::span<Earlier>(&left, 1));
    return left;
}

void RunOutput::withdraw() {
    if (!begun_) {
        trace_.reset();
        runtime_.world.barrier();
    }
}

void RunOutput::take_over_traces(bool resumed) {
    try {
        if (resumed) {
            measure::add_killed_session(folder_.trace(), folder_.earlier_trace_parts());
        } else {
            std::filesystem::remove(folder_.trace());
        }
    } catch (const core::Error& error) {
        say(fmt::format("the trace of the session before is lost: {}", error.what()));
    }
    std::filesystem::remove_all(folder_.earlier_trace_parts());
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
    lock_->require_held();
    metrics_->write(line);
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
    metrics_->write({{keys::step, step},
                     {keys::eval_loss, evaluation.loss()},
                     {keys::eval_exact, evaluation.exact_percent()},
                     {keys::eval_tokens, evaluation.target_tokens}});
    last_evaluation_ = {{keys::eval_loss, evaluation.loss()}, {keys::eval_exact, evaluation.exact_percent()}};
    say(fmt::format("step {}: eval loss {:.4f}, exact {:.1f} % of {}", step, evaluation.loss(),
                    evaluation.exact_percent(), core::counted(evaluation.sequences, "sequence")));
}

void RunOutput::show_progress(const train::StepResult& result) {
    constexpr std::size_t averaged_steps = 20;
    busy_seconds_ += result.seconds;
    latest_.push_back({result.decision.tokens, result.seconds});
    if (latest_.size() > averaged_steps) {
        latest_.pop_front();
    }
    MetricsSums recent;
    for (const MetricsSums& step : latest_) {
        recent.tokens += step.tokens;
        recent.seconds += step.seconds;
    }
    const double per_step = busy_seconds_ / static_cast<double>(result.step - span_.first_step);
    const train::Decision& decision = result.decision;
    const std::string loss =
        decision.target_tokens > 0 ? fmt::format("{:.4f}", std::abs(decision.loss)) : "none";  // NaN may have a sign
    progress_.show(fmt::format("step {}/{}  loss {}  {:.0f} tokens/s  epoch {:.2f}  lr {:.3g}  {}  ETA {}", result.step,
                               span_.total_steps, loss, recent.tokens_per_second(),
                               static_cast<double>(result.step) / static_cast<double>(span_.steps_per_epoch),
                               result.learning_rate, clock_text(static_cast<double>(now_ns() - start_ns_) * 1e-9),
                               clock_text(per_step * static_cast<double>(span_.total_steps - result.step))),
                   result.step == span_.first_step + 1 || result.step == span_.total_steps);
}

double RunOutput::finish(const char* end, index_t last_step, index_t adapter_step,
                         const train::EvaluationHistory& evaluations) {
    if (trace_) {
        progress_.show_briefly("writing the trace");
        try {
            run_[keys::trace] = trace_->join(folder_.trace());
        } catch (const mpi::AgreedError& error) {
            say(fmt::format("the trace is missing: {}", error.what()));  // what was learned is worth more
        }
        trace_.reset();
    }
    const auto peaks = runtime_.world.all_gather(static_cast<std::int64_t>(host::peak_memory_bytes()));
    const auto before = runtime_.world.all_gather(static_cast<std::int64_t>(memory_before_));
    double tokens_per_second = 0;
    runtime_.world.agree([&] {
        if (!runtime_.world.is_root()) {
            return;
        }
        lock_->require_held();
        for (std::size_t rank = 0; rank < peaks.size(); ++rank) {
            run_[keys::ranks][rank][keys::memory_before_bytes] = before[rank];
            run_[keys::ranks][rank][keys::peak_memory_bytes] = peaks[rank];
        }
        const MetricsSums& all = metrics_->sums();
        tokens_per_second = all.tokens_per_second();
        nlohmann::ordered_json& session = run_[keys::sessions].back();
        session[keys::finished] = utc_now();
        session[keys::end] = end;
        session[keys::last_step] = last_step;
        session[keys::tokens] = all.tokens - sums_before_.tokens;
        session[keys::seconds] = all.seconds - sums_before_.seconds;
        run_[keys::finished] = session[keys::finished];
        run_[keys::totals] = {{keys::steps, last_step},
                              {keys::adapter_step, adapter_step},
                              {keys::tokens, all.tokens},
                              {keys::seconds, all.seconds},
                              {keys::tokens_per_second, tokens_per_second}};
        run_[keys::totals].update(last_evaluation_);
        if (evaluations.best_step > 0) {
            run_[keys::totals][keys::best_step] = evaluations.best_step;
            run_[keys::totals][keys::best_eval_loss] = evaluations.best_loss;
        }
        write_run();
        const std::string problem = try_to_report(folder_.path, folder_.report());
        if (!problem.empty()) {
            say(fmt::format("the report is incomplete: {}", problem));
        }
    });
    if (runtime_.world.size() > 1 && run_.contains(keys::trace)) {
        say_clocks();
    }
    say_memory();
    return tokens_per_second;
}

void RunOutput::say_memory() {
    if (!runtime_.world.is_root()) {
        return;
    }
    double added = 0;  // on the rank with most
    for (const auto& rank : run_[keys::ranks]) {
        added = std::max(added,
                         rank[keys::peak_memory_bytes].get<double>() - rank[keys::memory_before_bytes].get<double>());
    }
    say(fmt::format("memory of a rank: {:.2f} GiB planned, {:.2f} GiB at the peak", planned_bytes_ / core::gibibyte,
                    added / core::gibibyte));
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
