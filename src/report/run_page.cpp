#include "report/run_page.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "measure/statistics.hpp"
#include "measure/trace_file.hpp"
#include "report/run_environment.hpp"
#include "report/trace_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

namespace moesaic::report {
namespace {

namespace fs = std::filesystem;
namespace keys = measure::run_keys;
using measure::summarize;
using measure::Summary;

/// Of the routers, without its coefficient; nothing for a run that does not train on it.
std::optional<LineChart> auxiliary_loss_of(const Metrics& metrics) {
    LineChart chart{"Auxiliary loss of the routers", step_axis(), {"loss, without its coefficient", ""}, {}};
    Series& series = chart.series.emplace_back(
        Series{.name = "training", .x = {}, .y = {}, .low = {}, .high = {}, .markers = false});
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
        if (step.slowest_rank && std::isfinite(*step.slowest_rank)) {
            slowness[*step.slowest_rank].push_back(step.slowness);
        }
    }
    Table table{"Slowest rank of the steps",
                {{"rank", ""}, {"steps", ""}, {"busy time over the median of the others, median", "x"}, {"max", "x"}},
                {}};
    for (const auto& [rank, times] : slowness) {
        const Summary summary = summarize(times);
        table.rows.push_back({rank, static_cast<double>(times.size()), summary.median, summary.max});
    }
    return table.rows.empty() ? std::nullopt : std::optional(table);
}

Section loss_section(const Metrics& metrics) {
    LineChart loss{"Loss", step_axis(), {"loss", "nats per target token"}, training_loss_of(metrics, "training")};
    if (!metrics.evaluations.empty()) {
        loss.series.push_back(evaluation_loss_of(metrics, "evaluation"));
        loss.series.back().style = 1;
    }
    LineChart norm{"Norm of the gradients", step_axis(), {"norm before clipping", ""}, {}};
    norm.series.push_back(series_of("gradients", metrics.steps, &Step::gradient_norm));
    LineChart rate{"Learning rate", step_axis(), {"learning rate", ""}, {}};
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
    std::string text = fmt::format("{} of {} were skipped", skipped, core::counted(metrics.steps.size(), "step"));
    constexpr int most_named = 20;
    int named = 0;
    for (const Step& step : metrics.steps) {
        if (step.skipped && named++ < most_named) {
            text += fmt::format("{} {}", named == 1 ? ":" : ",", readable_count(step.step));
        }
    }
    text += named > most_named ? fmt::format(" and {} more", named - most_named) : "";
    section.blocks.emplace_back(Paragraph{text + "."});
    return section;
}

/// Of an interval; nothing where so few samples have none.
Cell interval_end(const Summary& summary, double end) {
    return summary.has_interval() ? Cell(end) : Cell(std::string());
}

Summary throughput_of(const Metrics& metrics) {
    std::vector<double> rates;
    for (const Step& step : metrics.steps) {
        rates.push_back(step.tokens_per_second);
    }
    return rates.empty() ? Summary() : summarize(rates);
}

Section throughput_section(const Metrics& metrics) {
    LineChart chart{"Throughput", step_axis(), {"tokens of all ranks", "tokens/s", false, true}, {}};
    chart.series.push_back(series_of("tokens per second", metrics.steps, &Step::tokens_per_second));
    const Summary summary = throughput_of(metrics);
    Table table{"Throughput of the steps",
                {{"n", ""},
                 {"median", "tokens/s"},
                 {"95 % from", "tokens/s"},
                 {"to", "tokens/s"},
                 {"min", "tokens/s"},
                 {"max", "tokens/s"}},
                {{static_cast<double>(summary.n), summary.median, interval_end(summary, summary.low),
                  interval_end(summary, summary.high), summary.min, summary.max}}};
    LineChart load{"Busiest expert", step_axis(), {"tokens over the mean of its layer", "", false, true}, {}};
    load.series.push_back(series_of("largest of all layers", metrics.steps, &Step::expert_load_ratio));
    LineChart unused{"Unused experts", step_axis(), {"experts without a token", "", false, true}, {}};
    unused.series.push_back(series_of("of all layers together", metrics.steps, &Step::unused_experts));
    Section section{"Throughput",
                    {Figure{chart, "Each step: forward and backward pass, exchange, update."}, table, Figure{load, ""},
                     Figure{unused, ""}}};
    if (const auto ranks = slowest_ranks(metrics)) {
        section.blocks.emplace_back(*ranks);
    }
    return section;
}

std::vector<Headline> headlines_of(const Metrics& metrics, const nlohmann::json& run, const std::string& source) {
    std::vector<Headline> headlines;
    const Summary rate = throughput_of(metrics);
    if (rate.n > 0) {
        headlines.push_back(
            {.name = "throughput",
             .value = rate.median,
             .unit = "tokens/s",
             .samples = static_cast<double>(rate.n),
             .interval = rate.has_interval() ? std::optional(std::pair{rate.low, rate.high}) : std::nullopt,
             .note = "median of the steps"});
        if (const auto totals = io::get_or<nlohmann::json>(run, keys::totals, nullptr, source); !totals.is_null()) {
            headlines.push_back(
                {.name = "throughput of the whole run",
                 .value = io::get<double>(totals, keys::tokens_per_second, source),
                 .unit = "tokens/s",
                 .note = "all tokens over the time of all steps, slow ones too (train_tokens_per_second)"});
        }
        const auto has_loss = [](const Step& step) { return std::isfinite(step.loss); };
        const auto first = std::find_if(metrics.steps.begin(), metrics.steps.end(), has_loss);
        const auto last = std::find_if(metrics.steps.rbegin(), metrics.steps.rend(), has_loss);
        if (first != metrics.steps.end()) {
            headlines.push_back({.name = "training loss",
                                 .value = last->loss,
                                 .unit = "nats/token",
                                 .note = fmt::format("step {}; {} at step {}", readable_count(last->step),
                                                     readable(first->loss), readable_count(first->step))});
        }
    }
    if (!metrics.evaluations.empty()) {
        const Evaluation& first = metrics.evaluations.front();
        const Evaluation& last = metrics.evaluations.back();
        headlines.push_back({.name = "evaluation loss",
                             .value = last.loss,
                             .unit = "nats/token",
                             .samples = last.tokens,
                             .note = fmt::format("{} at step {}", readable(first.loss), readable_count(first.step))});
        headlines.push_back(
            {.name = "exact answers",
             .value = last.exact,
             .unit = "%",
             .note = fmt::format("{} % at step {}", readable(first.exact), readable_count(first.step))});
    }
    return headlines;
}

}  // namespace

RunRecord read_run(const fs::path& folder) {
    return {folder, io::read_json(folder / "run.json"), read_metrics(folder / "metrics.jsonl")};
}

std::vector<Headline> headlines_of(const RunRecord& run) {
    return headlines_of(run.metrics, run.json, run.source());
}

Document describe_run(const RunRecord& record) {
    const std::string source = record.source();
    const nlohmann::json& run = record.json;
    const Metrics& metrics = record.metrics;
    Document document;
    document.damage = metrics.damage;
    document.subject = "training run " + record.name();
    const bool finished = run.contains(keys::finished);
    document.subtitle =
        fmt::format("Started {}, {}; {}; {}.", io::get<std::string>(run, keys::started, source),
                    finished ? "finished " + io::get<std::string>(run, keys::finished, source)
                             : "and did not come to its end (or still runs)",
                    core::counted(io::get<std::vector<nlohmann::json>>(run, keys::ranks, source).size(), "rank"),
                    core::counted(metrics.steps.size(), "step"));
    document.headlines = headlines_of(record);
    if (!metrics.steps.empty() || !metrics.evaluations.empty()) {
        document.sections.push_back(loss_section(metrics));
        document.sections.push_back(throughput_section(metrics));
    }
    measure::TraceSummary summary;
    try {
        const measure::Trace trace = measure::read_trace(record.folder / "trace.json", record.folder / "trace");
        summary = measure::analyse(trace);
        for (const Section& section : trace.ranks.empty() ? std::vector<Section>() : sections_of(trace, summary)) {
            document.sections.push_back(section);
        }
    } catch (const core::Error& error) {
        document.damage.emplace_back(error.what());
    }
    if (Section memory = memory_section(record, summary); !memory.blocks.empty()) {
        document.sections.push_back(memory);
    }
    if (const auto sessions = sessions_section(record)) {
        document.sections.push_back(*sessions);
    }
    document.sections.push_back(checkpoints_section(record));
    document.sections.push_back(environment_section(record));
    return document;
}

Document describe_run(const fs::path& folder) {
    return describe_run(read_run(folder));
}

}  // namespace moesaic::report
