#include "report/results_page.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "measure/scaling.hpp"
#include "report/json_text.hpp"
#include "report/roofline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>

namespace moesaic::report {
namespace {

namespace figures = measure::figures;
using core::counted;
using measure::CaseResult;
using measure::Results;

constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// Of a figure whose quantity has this parameter.
const std::string& text_of(const measure::Figure& figure, const char* key) {
    const std::string* const value = figure.parameter(key);
    core::require(value != nullptr, core::ExitCode::corrupt_input,
                  "figure {} has no parameter {} (a {} needs it); write the file again", figure.name, key,
                  figure.quantity);
    return *value;
}

double number_of(const measure::Figure& figure, const char* key) {
    const std::string& text = text_of(figure, key);
    double number = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
    core::require(read.ec == std::errc() && read.ptr == text.data() + text.size() && number > 0,
                  core::ExitCode::corrupt_input,
                  "figure {} has the parameter {} = {} (a number above 0 is needed); write the file again", figure.name,
                  key, text);
    return number;
}

void add_point(std::map<std::string, Series>& series, const std::string& name, double x,
               const measure::Figure& figure) {
    Series& of_name = series.try_emplace(name, Series{name, {}, {}, {}, {}}).first->second;
    of_name.x.push_back(x);
    of_name.y.push_back(figure.value);
    of_name.low.push_back(figure.summary.has_interval() ? figure.summary.low : none);
    of_name.high.push_back(figure.summary.has_interval() ? figure.summary.high : none);
}

/// All in order of x.
std::vector<Series> in_order(const std::map<std::string, Series>& by_name) {
    std::vector<Series> all;
    for (const auto& [name, series] : by_name) {
        std::vector<std::size_t> order(series.x.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(), [&, &x = series.x](std::size_t a, std::size_t b) { return x[a] < x[b]; });
        Series sorted{series.name, {}, {}, {}, {}};
        for (const std::size_t i : order) {
            sorted.x.push_back(series.x[i]);
            sorted.y.push_back(series.y[i]);
            sorted.low.push_back(series.low[i]);
            sorted.high.push_back(series.high[i]);
        }
        all.push_back(sorted);
    }
    return all;
}

/// Time and bandwidth of every operation between ranks, by message size.
std::optional<Section> collectives_section(const Results& results) {
    std::map<std::string, Series> times;
    std::map<std::string, Series> bandwidths;
    for (const CaseResult& result : results.cases) {
        for (const measure::Figure& figure : result.figures) {
            const bool is_bandwidth = figure.quantity == figures::message_bandwidth;
            if (is_bandwidth || figure.quantity == figures::message_time) {
                add_point(is_bandwidth ? bandwidths : times,
                          fmt::format("{}, {}", text_of(figure, figures::operation), counted(result.ranks, "rank")),
                          number_of(figure, figures::bytes), figure);
            }
        }
    }
    if (times.empty()) {
        return {};
    }
    const Axis sizes = {.label = "message size", .unit = "bytes", .logarithmic = true, .bytes = true};
    Section section{"Collectives", {}};
    section.blocks.emplace_back(Figure{LineChart{"Time of collectives", sizes, {"time", "us", true}, in_order(times)},
                                       "Medians with 95 % intervals, of the slowest rank."});
    if (!bandwidths.empty()) {
        section.blocks.emplace_back(
            Figure{LineChart{"Bandwidth of collectives", sizes, {"per rank", "GB/s", true}, in_order(bandwidths)},
                   "Bytes that a rank sends, over the time."});
    }
    return section;
}

/// What one line of the charts stands for: several numbers of ranks that each have several numbers of threads would
/// meet at the same number of threads of all ranks, so that each has a line of its own.
std::vector<std::pair<std::string, std::vector<measure::Scaling::Point>>> lines_of(const measure::Scaling& scaling) {
    const std::string name = scaling.name + ": " + scaling.figure;
    std::map<core::index_t, std::vector<measure::Scaling::Point>> by_ranks;
    std::set<core::index_t> threads_of_all;
    for (const measure::Scaling::Point& point : scaling.points) {
        by_ranks[point.result->ranks].push_back(point);
        threads_of_all.insert(point.result->ranks * point.result->threads);
    }
    if (threads_of_all.size() == scaling.points.size()) {
        return {{name, scaling.points}};
    }
    std::vector<std::pair<std::string, std::vector<measure::Scaling::Point>>> lines;
    for (const auto& [ranks, points] : by_ranks) {
        lines.emplace_back(name + ", " + counted(ranks, "rank"), points);
    }
    return lines;
}

/// Cases that differ only in ranks and threads.
std::optional<Section> scaling_section(const Results& results) {
    LineChart speed{"Speed-up", {"threads of all ranks", "", true}, {"over the fewest threads", "x", true}, {}};
    LineChart efficiency{"Efficiency", {"threads of all ranks", "", true}, {"of ideal speed-up", "%", false, true}, {}};
    Series ideal{.name = "ideal", .x = {}, .y = {}, .low = {}, .high = {}, .stroke = Stroke::reference};
    for (const measure::Scaling& scaling : measure::scaling_of(results.cases)) {
        for (const auto& [name, points] : lines_of(scaling)) {
            Series faster{name, {}, {}, {}, {}};
            Series efficient = faster;
            for (const measure::Scaling::Point& point : points) {
                const auto threads = static_cast<double>(point.result->ranks * point.result->threads);
                faster.x.push_back(threads);
                faster.y.push_back(point.speed_up);
                faster.low.push_back(point.low);
                faster.high.push_back(point.high);
                const double percent = point.efficiency_percent / point.speed_up;
                efficient.x.push_back(threads);
                efficient.y.push_back(point.efficiency_percent);
                efficient.low.push_back(percent * point.low);
                efficient.high.push_back(percent * point.high);
            }
            speed.series.push_back(faster);
            efficiency.series.push_back(efficient);
        }
        const measure::CaseResult& first = *scaling.points.front().result;
        const measure::CaseResult& last = *scaling.points.back().result;
        const auto fewest = static_cast<double>(first.ranks * first.threads);
        const auto most = static_cast<double>(last.ranks * last.threads);
        if (ideal.x.empty() || most / fewest > ideal.y.back()) {
            ideal.x = {fewest, most};
            ideal.y = {1, most / fewest};
        }
    }
    if (speed.series.empty()) {
        return {};
    }
    speed.series.push_back(ideal);
    return Section{"Scaling",
                   {Figure{speed, "Work of all ranks per second; intervals are those of the medians."},
                    Figure{efficiency, "Speed-up over the best that the added threads could give."}}};
}

/// Parts of a layer or a step in bars.
std::optional<Section> parts_section(const Results& results) {
    BarChart layers{"Expert layers", {"time per pass, median", "ms"}, {}, {"forward", "backward"}, {}};
    BarChart steps{"Training steps",
                   {"time, median", "ms"},
                   {},
                   {"forward", "head and loss", "backward", "reduce gradients", "AdamW"},
                   {}};
    const auto value = [](const measure::Figure* figure) { return figure == nullptr ? 0 : figure->value; };
    for (const CaseResult& result : results.cases) {
        for (const measure::Figure& figure : result.figures) {
            if (figure.quantity == figures::layer_forward) {
                layers.bars.push_back(fmt::format("{}, {} tokens", result.name, text_of(figure, figures::tokens)));
                layers.values.push_back({figure.value, value(result.find(figures::layer_backward, figure.parameters))});
            }
        }
        if (result.find(figures::step_forward) != nullptr) {
            steps.bars.push_back(result.name);
            std::vector<double>& parts_of_step = steps.values.emplace_back();
            for (const char* part : {figures::step_forward, figures::step_loss, figures::step_backward,
                                     figures::step_reduce, figures::step_optimizer}) {
                parts_of_step.push_back(value(result.find(part)));
            }
        }
    }
    Section section{"Layers and steps", {}};
    for (const BarChart& chart : {layers, steps}) {
        if (!chart.bars.empty()) {
            section.blocks.emplace_back(Figure{chart, ""});
        }
    }
    return section.blocks.empty() ? std::nullopt : std::optional(section);
}

/// "2 ranks of 1 thread".
std::string team_of(const CaseResult& result) {
    return counted(result.ranks, "rank") + " of " + counted(result.threads, "thread");
}

Table figures_of(const CaseResult& result) {
    Table table{result.name + ": " + team_of(result),
                {{"figure", ""},
                 {"unit", ""},
                 {"value", ""},
                 {"is", ""},
                 {"n", ""},
                 {"median, 95 % from", ""},
                 {"to", ""},
                 {"min", ""},
                 {"max", ""},
                 {"floor reached", "%"}},
                {}};
    for (const measure::Figure& figure : result.figures) {
        const char* const kind = figure.summary.n == 0                   ? "count"
                                 : figure.value == figure.summary.median ? "median"
                                                                         : "best";
        std::vector<Cell> row = {figure.name, figure.unit, figure.value, std::string(kind)};
        if (figure.summary.n > 0) {
            const bool has_interval = figure.summary.has_interval();
            row.insert(row.end(), {static_cast<double>(figure.summary.n),
                                   has_interval ? Cell(figure.summary.low) : Cell(std::string()),
                                   has_interval ? Cell(figure.summary.high) : Cell(std::string()), figure.summary.min,
                                   figure.summary.max});
        } else {
            row.insert(row.end(), 5, std::string());
        }
        row.push_back(figure.floor_percent ? Cell(*figure.floor_percent) : Cell(std::string()));
        table.rows.push_back(row);
    }
    return table;
}

Section cases_section(const Results& results) {
    Section section{"All figures", {}};
    Table checks{
        "Verified before anything was measured", {{"case", ""}, {"quantity", ""}, {"error", ""}, {"at most", ""}}, {}};
    for (const CaseResult& result : results.cases) {
        section.blocks.emplace_back(figures_of(result));
        std::string parameters;
        for (const auto& [key, value] : result.parameters) {
            parameters += fmt::format("{}{} = {}", parameters.empty() ? "" : ", ", key, value);
        }
        if (!parameters.empty()) {
            section.blocks.emplace_back(Paragraph{parameters + "."});
        }
        for (const measure::Check& check : result.checks) {
            checks.rows.push_back({result.name, check.name, check.error, check.bound});
        }
    }
    if (!checks.rows.empty()) {
        section.blocks.emplace_back(checks);
    }
    return section;
}

/// "VALUE on ranks 0-2; OTHER on ranks 3".
std::string holders_of(const measure::Difference& difference) {
    std::string text;
    for (const auto& [value, ranks] : difference.values) {
        text += fmt::format("{}{} on ranks {}", text.empty() ? "" : "; ", plain_text(value), ranks);
    }
    return text;
}

/// What may have spoiled the figures, for readers to know before they see them.
std::optional<Section> warnings_section(const Results& results) {
    Section section{"Warnings", {}};
    if (!results.complete) {
        section.blocks.emplace_back(Paragraph{"The run did not come to its end: cases of the deck are missing."});
    }
    for (const std::string& warning : results.warnings) {
        section.blocks.emplace_back(Paragraph{warning});
    }
    return section.blocks.empty() ? std::nullopt : std::optional(section);
}

Section environment_section(const Results& results) {
    Section section{"Environment", {}};
    Table program{"Program", {{"", ""}, {"", ""}}, {}};
    add_flat(results.program, "", program);
    section.blocks.emplace_back(program);
    if (results.ranks.is_array() && !results.ranks.empty()) {
        Table rank{"Rank 0", {{"", ""}, {"", ""}}, {}};
        add_flat(results.ranks.front(), "", rank);
        section.blocks.emplace_back(rank);
    }
    Table differences{"Where ranks differ", {{"key", ""}, {"values", ""}}, {}};
    for (const measure::Difference& difference : results.differences) {
        differences.rows.push_back({difference.key, holders_of(difference)});
    }
    if (!differences.rows.empty()) {
        section.blocks.emplace_back(differences);
    }
    return section;
}

std::vector<Headline> headlines_of(const Results& results) {
    if (!results.headline) {
        return {};
    }
    const measure::Headline& headline = *results.headline;
    double samples = 0;
    std::string note = "case " + headline.case_name;
    if (const CaseResult* const result = results.find(headline.case_name)) {
        for (const measure::Figure& figure : result->figures) {
            samples = figure.value == headline.value ? static_cast<double>(figure.summary.n) : samples;
        }
        note += ", " + team_of(*result);
    }
    note += headline.floor_percent
                ? fmt::format("; {} % of what the machine's limits allow", readable(*headline.floor_percent))
                : "";
    return {{headline.name, headline.value, headline.unit, samples, std::pair{headline.low, headline.high}, note}};
}

/// "2 x Intel Xeon ...", hosts of ranks by the model of their processors.
std::string machines_of(const Results& results) {
    std::map<std::string, std::set<std::string>> hosts;  // by model
    for (const auto& rank : results.ranks) {
        const auto cpu = rank.value("cpu", nlohmann::ordered_json::object());
        hosts[cpu.value("model", "unknown")].insert(rank.value("host", "unknown"));
    }
    std::string text;
    for (const auto& [model, names] : hosts) {
        text += fmt::format("{}{} with {}", text.empty() ? "" : ", ", counted(names.size(), "host"), model);
    }
    return text;
}

}  // namespace

Document describe_results(const Results& results) {
    Document document;
    document.subject = results.command;
    document.subject += results.deck.empty() ? "" : " " + std::filesystem::path(results.deck).stem().string();
    document.subtitle =
        fmt::format("{}; {}{}. Started {}, {} s.", machines_of(results), counted(results.ranks.size(), "rank"),
                    results.deck.empty() ? "" : "; " + results.deck, results.started, readable(results.seconds));
    document.headlines = headlines_of(results);
    for (const auto& section : {warnings_section(results), roofline_section(results), scaling_section(results),
                                parts_section(results), collectives_section(results)}) {
        if (section) {
            document.sections.push_back(*section);
        }
    }
    document.sections.push_back(cases_section(results));
    document.sections.push_back(environment_section(results));
    return document;
}

}  // namespace moesaic::report
