#include "report/run_page.hpp"

#include "core/error.hpp"
#include "core/units.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "measure/statistics.hpp"
#include "measure/trace_file.hpp"
#include "report/trace_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>

namespace moesaic::report {
namespace {

namespace fs = std::filesystem;
namespace keys = measure::run_keys;
using measure::summarize;
using measure::Summary;

struct Step {
    double step = 0;
    double loss = 0;
    double gradient_norm = 0;
    double learning_rate = 0;
    double tokens_per_second = 0;
    double expert_load_ratio = 0;
    double unused_experts = 0;
    bool skipped = false;
    std::optional<double> auxiliary_loss = {};
    std::optional<double> slowest_rank = {};  ///< with several ranks
    double slowness = 0;                      ///< of that rank
};

struct Evaluation {
    double step = 0;
    double loss = 0;
    double exact = 0;
    double tokens = 0;
};

struct Metrics {
    std::vector<Step> steps;
    std::vector<Evaluation> evaluations;
};

Metrics read_metrics(const fs::path& file) {
    Metrics metrics;
    if (!fs::exists(file)) {
        return metrics;
    }
    const std::string source = file.string();
    io::for_each_json_line(file, [&](const nlohmann::json& line, std::size_t) {
        const auto number = [&](const char* key) { return io::get<double>(line, key, source); };
        // What is not finite is written as null.
        constexpr double none = std::numeric_limits<double>::quiet_NaN();
        const auto optional = [&](const char* key) {
            return line.contains(key) ? std::optional(io::get_or<double>(line, key, none, source)) : std::nullopt;
        };
        if (line.contains(keys::eval_loss)) {
            metrics.evaluations.push_back(
                {number(keys::step), number(keys::eval_loss), number(keys::eval_exact), number(keys::eval_tokens)});
        } else {
            metrics.steps.push_back(
                {number(keys::step), io::get_or<double>(line, keys::loss, none, source),
                 io::get_or<double>(line, keys::grad_norm, none, source), number(keys::lr),
                 number(keys::tokens_per_second), io::get_or<double>(line, keys::expert_load_ratio, 0, source),
                 io::get_or<double>(line, keys::unused_experts, 0, source), io::get<bool>(line, keys::skipped, source),
                 optional(keys::aux_loss), optional(keys::slowest_rank),
                 io::get_or<double>(line, keys::slowness, 0, source)});
        }
    });
    return metrics;
}

Series series_of(const std::string& name, const std::vector<Step>& steps, double Step::*value) {
    Series series{name, {}, {}, {}, {}, false};
    for (const Step& step : steps) {
        series.x.push_back(step.step);
        series.y.push_back(step.*value);
    }
    return series;
}

/// Of the routers, without its coefficient; nothing for a run that does not train on it.
std::optional<LineChart> auxiliary_loss_of(const Metrics& metrics) {
    LineChart chart{"Auxiliary loss of the routers", {"optimizer step", ""}, {"loss, without its coefficient", ""}, {}};
    Series& series = chart.series.emplace_back(Series{"training", {}, {}, {}, {}, false});
    for (const Step& step : metrics.steps) {
        if (step.auxiliary_loss) {
            series.x.push_back(step.step);
            series.y.push_back(*step.auxiliary_loss);
        }
    }
    return series.x.empty() ? std::nullopt : std::optional(chart);
}

/// Which ranks the others waited for; nothing for one rank.
std::optional<Table> slowest_ranks(const Metrics& metrics) {
    std::map<double, std::vector<double>> slowness;  // by rank: of the steps in which it was the slowest
    for (const Step& step : metrics.steps) {
        if (step.slowest_rank) {
            slowness[*step.slowest_rank].push_back(step.slowness);
        }
    }
    Table table{
        "Slowest rank of the steps",
        {{"rank", ""}, {"steps", ""}, {"computes for, over the median of the others, median", "x"}, {"max", "x"}},
        {}};
    for (const auto& [rank, times] : slowness) {
        const Summary summary = summarize(times);
        table.rows.push_back({rank, static_cast<double>(times.size()), summary.median, summary.max});
    }
    return table.rows.empty() ? std::nullopt : std::optional(table);
}

Section loss_section(const Metrics& metrics) {
    LineChart loss{"Loss", {"optimizer step", ""}, {"loss", "nats per target token"}, {}};
    loss.series.push_back(series_of("training, batch before the update", metrics.steps, &Step::loss));
    if (!metrics.evaluations.empty()) {
        Series eval{"evaluation", {}, {}, {}, {}, true};
        for (const Evaluation& evaluation : metrics.evaluations) {
            eval.x.push_back(evaluation.step);
            eval.y.push_back(evaluation.loss);
        }
        loss.series.push_back(eval);
    }
    LineChart norm{"Norm of the gradients", {"optimizer step", ""}, {"norm before clipping", ""}, {}};
    norm.series.push_back(series_of("gradients", metrics.steps, &Step::gradient_norm));
    LineChart rate{"Learning rate", {"optimizer step", ""}, {"learning rate", ""}, {}};
    rate.series.push_back(series_of("learning rate", metrics.steps, &Step::learning_rate));
    Section section{"Loss", {Figure{loss, ""}}};
    if (!metrics.evaluations.empty()) {
        Table table{"Evaluations",
                    {{"step", ""}, {"loss", "nats per target token"}, {"exact answers", "%"}, {"target tokens, n", ""}},
                    {}};
        for (const Evaluation& evaluation : metrics.evaluations) {
            table.rows.push_back({evaluation.step, evaluation.loss, evaluation.exact, evaluation.tokens});
        }
        section.blocks.emplace_back(table);
    }
    if (const auto auxiliary = auxiliary_loss_of(metrics)) {
        section.blocks.emplace_back(Figure{*auxiliary, ""});
    }
    section.blocks.emplace_back(Figure{norm, ""});
    section.blocks.emplace_back(Figure{rate, ""});
    const auto skipped =
        std::count_if(metrics.steps.begin(), metrics.steps.end(), [](const Step& s) { return s.skipped; });
    std::string text = fmt::format("{} of {} steps were skipped", skipped, metrics.steps.size());
    for (const Step& step : metrics.steps) {
        text += step.skipped ? fmt::format("{} {:.0f}", text.back() == 'd' ? ":" : ",", step.step) : "";
    }
    section.blocks.emplace_back(Paragraph{text + "."});
    return section;
}

Summary throughput_of(const Metrics& metrics) {
    std::vector<double> rates;
    for (const Step& step : metrics.steps) {
        rates.push_back(step.tokens_per_second);
    }
    return rates.empty() ? Summary() : summarize(rates);
}

Section throughput_section(const Metrics& metrics) {
    LineChart chart{"Throughput", {"optimizer step", ""}, {"tokens of all ranks", "tokens/s", false, true}, {}};
    chart.series.push_back(series_of("tokens per second", metrics.steps, &Step::tokens_per_second));
    const Summary summary = throughput_of(metrics);
    Table table{
        "Throughput of the steps",
        {{"n", ""},
         {"median", "tokens/s"},
         {"95 % from", "tokens/s"},
         {"to", "tokens/s"},
         {"min", "tokens/s"},
         {"max", "tokens/s"}},
        {{static_cast<double>(summary.n), summary.median, summary.low, summary.high, summary.min, summary.max}}};
    LineChart load{
        "Busiest expert", {"optimizer step", ""}, {"tokens over the mean of its layer", "", false, true}, {}};
    load.series.push_back(series_of("largest of all layers", metrics.steps, &Step::expert_load_ratio));
    LineChart unused{"Unused experts", {"optimizer step", ""}, {"experts without a token", "", false, true}, {}};
    unused.series.push_back(series_of("of all layers together", metrics.steps, &Step::unused_experts));
    Section section{"Throughput",
                    {Figure{chart, "Each step: forward and backward pass, exchange, update."}, table, Figure{load, ""},
                     Figure{unused, ""}}};
    if (const auto ranks = slowest_ranks(metrics)) {
        section.blocks.emplace_back(*ranks);
    }
    return section;
}

/// The plan that the run was started with, against what ranks used at most: as they say at their end, or as the trace
/// has it of a run that did not come to its end.
Section memory_section(const nlohmann::json& run, const measure::TraceSummary& trace, const std::string& source) {
    Section section{"Memory", {}};
    double planned = 0;
    if (run.contains(keys::memory_plan)) {
        Table plan{"Plan per rank", {{"for", ""}, {"memory", "MiB"}}, {}};
        for (const auto& item : io::get<std::vector<nlohmann::json>>(run, keys::memory_plan, source)) {
            const double bytes = io::get<double>(item, keys::bytes, source);
            plan.rows.push_back({io::get<std::string>(item, keys::purpose, source), bytes / core::mebibyte});
            planned += bytes;
        }
        plan.rows.push_back({std::string("together"), planned / core::mebibyte});
        section.blocks.emplace_back(plan);
    }
    Table peaks{"Peak of each rank", {{"rank", ""}, {"resident at most", "MiB"}, {"over the plan", "MiB"}}, {}};
    for (const auto& rank : io::get<std::vector<nlohmann::json>>(run, keys::ranks, source)) {
        const int number = io::get<int>(rank, keys::rank, source);
        const auto traced = trace.peak_memory_bytes.find(number);
        const double bytes = io::get_or<double>(rank, keys::peak_memory_bytes,
                                                traced == trace.peak_memory_bytes.end() ? 0 : traced->second, source);
        if (bytes > 0) {
            peaks.rows.push_back(
                {static_cast<double>(number), bytes / core::mebibyte, (bytes - planned) / core::mebibyte});
        }
    }
    if (!peaks.rows.empty()) {
        section.blocks.emplace_back(peaks);
        section.blocks.emplace_back(
            Paragraph{"The plan counts weights, factors, activations and buffers; the resident memory also holds the "
                      "program, the "
                      "MPI library, the data and the trace."});
    }
    return section;
}

Section checkpoints_section(const fs::path& folder) {
    Table table{"Checkpoints", {{"file", ""}, {"size", "MiB"}}, {}};
    std::error_code error;
    std::set<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
        if (entry.path().extension() == ".h5") {
            files.insert(entry.path());
        }
    }
    for (const fs::path& file : files) {
        const auto bytes = fs::file_size(file, error);
        table.rows.push_back({file.filename().string(), error ? 0.0 : static_cast<double>(bytes) / core::mebibyte});
    }
    if (files.empty()) {
        return {"Checkpoints", {Paragraph{"There is no checkpoint."}}};
    }
    return {"Checkpoints", {table}};
}

Section environment_section(const nlohmann::json& run, const std::string& source) {
    const auto text = [&](const char* key) { return io::get_or<std::string>(run, key, "", source); };
    Table program{"Program", {{"", ""}, {"", ""}}, {}};
    for (const char* key :
         {keys::started, keys::finished, keys::version, keys::git_revision, keys::compiler, keys::mpi}) {
        program.rows.push_back({std::string(key), text(key)});
    }
    for (const char* key : {keys::kernels, keys::grid}) {
        program.rows.push_back({std::string(key), io::get_or<nlohmann::json>(run, key, {}, source).dump()});
    }
    Table ranks{
        "Ranks", {{"rank", ""}, {"host", ""}, {"threads", ""}, {"cores", ""}, {"NUMA nodes", ""}, {"bound", ""}}, {}};
    for (const auto& rank : io::get<std::vector<nlohmann::json>>(run, keys::ranks, source)) {
        ranks.rows.push_back({io::get<double>(rank, keys::rank, source), io::get<std::string>(rank, keys::host, source),
                              io::get<double>(rank, keys::threads, source),
                              io::get<nlohmann::json>(rank, keys::cores, source).dump(),
                              io::get<nlohmann::json>(rank, keys::numa_nodes, source).dump(),
                              std::string(io::get<bool>(rank, keys::threads_bound, source) ? "yes" : "no")});
    }
    Table options{"Configuration", {{"key", ""}, {"value", ""}}, {}};
    const auto configuration = io::get<nlohmann::json>(run, keys::configuration, source);
    for (const auto& [key, value] : configuration.items()) {
        options.rows.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
    }
    return {"Environment and configuration", {program, ranks, options}};
}

std::vector<fs::path> traces_of(const fs::path& folder) {
    std::set<fs::path> parts;
    std::error_code missing;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / "trace", missing)) {
        if (entry.path().extension() == ".json") {
            parts.insert(entry.path());
        }
    }
    if (parts.empty() && fs::exists(folder / "trace.json")) {
        parts.insert(folder / "trace.json");
    }
    return {parts.begin(), parts.end()};
}

std::vector<Headline> headlines_of(const Metrics& metrics, const nlohmann::json& run, const std::string& source) {
    std::vector<Headline> headlines;
    const Summary rate = throughput_of(metrics);
    if (rate.n > 0) {
        headlines.push_back({"throughput", rate.median, "tokens/s", static_cast<int>(rate.n),
                             std::pair{rate.low, rate.high}, "median of the steps"});
        if (const auto totals = io::get_or<nlohmann::json>(run, keys::totals, nullptr, source); !totals.is_null()) {
            headlines.push_back({"throughput of the whole run",
                                 io::get<double>(totals, keys::tokens_per_second, source),
                                 "tokens/s",
                                 0,
                                 {},
                                 "all tokens over the time of all steps, slow ones too (train_tokens_per_second)"});
        }
        headlines.push_back({"training loss",
                             metrics.steps.back().loss,
                             "nats/token",
                             0,
                             {},
                             fmt::format("step {:.0f}; {:.4g} at step {:.0f}", metrics.steps.back().step,
                                         metrics.steps.front().loss, metrics.steps.front().step)});
    }
    if (!metrics.evaluations.empty()) {
        const Evaluation& first = metrics.evaluations.front();
        const Evaluation& last = metrics.evaluations.back();
        headlines.push_back({"evaluation loss",
                             last.loss,
                             "nats/token",
                             static_cast<int>(last.tokens),
                             {},
                             fmt::format("{:.4g} at step {:.0f}", first.loss, first.step)});
        headlines.push_back(
            {"exact answers", last.exact, "%", 0, {}, fmt::format("{:.4g} % at step {:.0f}", first.exact, first.step)});
    }
    return headlines;
}

}  // namespace

Document describe_run(const fs::path& folder) {
    const fs::path file = folder / "run.json";
    const std::string source = file.string();
    const nlohmann::json run = io::read_json(file);
    const Metrics metrics = read_metrics(folder / "metrics.jsonl");
    Document document;
    document.subject = "training run " + folder.filename().string();
    const bool finished = run.contains(keys::finished);
    document.subtitle =
        fmt::format("Started {}, {}; {} rank(s); {} steps.", io::get<std::string>(run, keys::started, source),
                    finished ? "finished " + io::get<std::string>(run, keys::finished, source)
                             : "and did not come to its end (or still runs)",
                    io::get<std::vector<nlohmann::json>>(run, keys::ranks, source).size(), metrics.steps.size());
    document.headlines = headlines_of(metrics, run, source);
    if (!metrics.steps.empty() || !metrics.evaluations.empty()) {
        document.sections.push_back(loss_section(metrics));
        document.sections.push_back(throughput_section(metrics));
    }
    measure::TraceSummary summary;
    if (const std::vector<fs::path> traces = traces_of(folder); !traces.empty()) {
        const measure::Trace trace = measure::read_trace(traces);
        summary = measure::analyse(trace);
        for (const Section& section : sections_of(trace, summary)) {
            document.sections.push_back(section);
        }
    }
    if (Section memory = memory_section(run, summary, source); !memory.blocks.empty()) {
        document.sections.push_back(memory);
    }
    document.sections.push_back(checkpoints_section(folder / "checkpoints"));
    document.sections.push_back(environment_section(run, source));
    return document;
}

}  // namespace moesaic::report
