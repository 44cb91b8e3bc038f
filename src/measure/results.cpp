#include "measure/results.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "io/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace moesaic::measure {
namespace {

using io::get;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* schema = "moesaic-bench-4";

ordered_json or_null(const std::optional<double>& value) {
    return value ? ordered_json(*value) : ordered_json(nullptr);
}

std::optional<double> optional_number(const json& object, const std::string& key, const std::string& source) {
    const json value = io::get_or<json>(object, key, nullptr, source);
    return value.is_null() ? std::nullopt : std::optional(get<double>(object, key, source));
}

ordered_json to_json(Better better) {
    return better == Better::neither ? ordered_json(nullptr) : better == Better::lower ? "lower" : "higher";
}

Better read_better(const json& figure, const std::string& source) {
    const auto text = io::get_or<std::string>(figure, "better", "", source);
    core::require(text.empty() || text == "lower" || text == "higher", core::ExitCode::corrupt_input,
                  "{}: better = {} is unknown (lower, higher or null); write the file again", source, text);
    return text.empty() ? Better::neither : text == "lower" ? Better::lower : Better::higher;
}

ordered_json to_json(const Parameters& parameters) {
    ordered_json object = ordered_json::object();
    for (const auto& [key, value] : parameters) {
        object[key] = value;
    }
    return object;
}

Parameters read_parameters(const json& entry, const std::string& source) {
    Parameters parameters;
    const json object = get<json>(entry, "parameters", source);
    for (const auto& [key, value] : object.items()) {
        parameters.emplace_back(key, get<std::string>(object, key, source));
    }
    return parameters;
}

ordered_json to_json(const Figure& figure) {
    ordered_json entry = {
        {"name", figure.name},  {"quantity", figure.quantity},      {"parameters", to_json(figure.parameters)},
        {"unit", figure.unit},  {"better", to_json(figure.better)}, {"value", figure.value},
        {"n", figure.summary.n}};
    if (figure.summary.n > 0) {
        entry["min"] = figure.summary.min;
        entry["median"] = figure.summary.median;
        entry["max"] = figure.summary.max;
        entry["interval"] = {figure.summary.low, figure.summary.high};
        entry["floor_percent"] = or_null(figure.floor_percent);
        entry["operations"] = figure.work ? ordered_json(figure.work->operations) : nullptr;
        entry["bytes"] = figure.work ? ordered_json(figure.work->bytes) : nullptr;
        entry["samples"] = figure.samples;
        if (!figure.rank_samples.empty()) {
            entry["rank_samples"] = figure.rank_samples;
        }
    }
    return entry;
}

std::optional<Work> read_work(const json& figure, const std::string& source) {
    const auto operations = optional_number(figure, "operations", source);
    const auto bytes = optional_number(figure, "bytes", source);
    if (!operations && !bytes) {
        return std::nullopt;
    }
    core::require(operations.value_or(0) > 0 && bytes.value_or(0) > 0, core::ExitCode::corrupt_input,
                  "{}: a figure has {} operations and {} bytes (both are above 0 or null); write the file again",
                  source, operations.value_or(0), bytes.value_or(0));
    return Work{*operations, *bytes};
}

Figure read_figure(const json& entry, const std::string& source, std::size_t repetitions) {
    Figure figure = {.name = get<std::string>(entry, "name", source),
                     .unit = get<std::string>(entry, "unit", source),
                     .better = read_better(entry, source),
                     .value = get<double>(entry, "value", source),
                     .quantity = get<std::string>(entry, "quantity", source),
                     .parameters = read_parameters(entry, source)};
    if (get<index_t>(entry, "n", source) > 0) {
        figure.samples = get<std::vector<double>>(entry, "samples", source);
        core::require(figure.samples.size() == repetitions, core::ExitCode::corrupt_input,
                      "{}: figure {} has {} ({} in rounds); write the file again", source, figure.name,
                      core::counted(figure.samples.size(), "sample"), core::counted(repetitions, "repetition"));
        const json of_ranks = io::get_or<json>(entry, "rank_samples", json::array(), source);
        if (!of_ranks.empty()) {
            figure.rank_samples = get<std::vector<std::vector<double>>>(entry, "rank_samples", source);
        }
        core::require(std::all_of(figure.rank_samples.begin(), figure.rank_samples.end(),
                                  [&](const std::vector<double>& rank) { return rank.size() == repetitions; }),
                      core::ExitCode::corrupt_input,
                      "{}: figure {} has other numbers of samples for some ranks ({} in rounds); write the file again",
                      source, figure.name, core::counted(repetitions, "repetition"));
        core::require(figure.better == Better::neither ||
                          std::all_of(figure.samples.begin(), figure.samples.end(), [](double x) { return x > 0; }),
                      core::ExitCode::corrupt_input,
                      "{}: figure {} has samples that are not above 0 (it is a time or a rate); write the file again",
                      source, figure.name);
        figure.summary = summarize(figure.samples);
        figure.floor_percent = optional_number(entry, "floor_percent", source);
        figure.work = read_work(entry, source);
    }
    return figure;
}

ordered_json to_json(const CaseResult& result) {
    ordered_json entry = {{"name", result.name},   {"benchmark", result.benchmark},
                          {"ranks", result.ranks}, {"threads", result.threads},
                          {"alone", result.alone}, {"parameters", to_json(result.parameters)}};
    entry["checks"] = ordered_json::array();
    for (const Check& check : result.checks) {
        entry["checks"].push_back({{"name", check.name}, {"error", check.error}, {"bound", check.bound}});
    }
    entry["rounds"] = result.rounds;
    entry["machine"] = nullptr;
    if (result.machine) {
        entry["machine"] = {
            {"level", result.machine->level}, {"peak", result.machine->peak}, {"dram_read", result.machine->dram_read}};
    }
    entry["figures"] = ordered_json::array();
    for (const Figure& figure : result.figures) {
        entry["figures"].push_back(to_json(figure));
    }
    return entry;
}

std::optional<MachineSamples> read_machine(const json& entry, const std::string& source, std::size_t repetitions) {
    const json machine = io::get_or<json>(entry, "machine", nullptr, source);
    if (machine.is_null()) {
        return std::nullopt;
    }
    MachineSamples samples = {.level = get<std::string>(machine, "level", source),
                              .peak = get<std::vector<double>>(machine, "peak", source),
                              .dram_read = get<std::vector<double>>(machine, "dram_read", source)};
    core::require(samples.peak.size() == repetitions && samples.dram_read.size() == repetitions,
                  core::ExitCode::corrupt_input,
                  "{}: machine has {} of the peak and {} of dram_read ({} in rounds); write the file again", source,
                  core::counted(samples.peak.size(), "sample"), samples.dram_read.size(),
                  core::counted(repetitions, "repetition"));
    return samples;
}

CaseResult read_case(const json& entry, const std::string& file) {
    CaseResult result = {.name = get<std::string>(entry, "name", file)};
    const std::string source = file + ": case " + result.name;
    result.benchmark = get<std::string>(entry, "benchmark", source);
    result.ranks = io::get_size(entry, "ranks", source);
    result.threads = io::get_size(entry, "threads", source);
    result.alone = get<bool>(entry, "alone", source);
    result.parameters = read_parameters(entry, source);
    for (const json& check : get<std::vector<json>>(entry, "checks", source)) {
        result.checks.push_back({get<std::string>(check, "name", source), get<double>(check, "error", source),
                                 get<double>(check, "bound", source)});
    }
    result.rounds = get<std::vector<index_t>>(entry, "rounds", source);
    std::size_t repetitions = 0;
    for (const index_t round : result.rounds) {
        core::require(round > 0 && round <= io::max_json_size, core::ExitCode::corrupt_input,
                      "{}: a round has {} repetitions (at least one); write the file again", source, round);
        repetitions += static_cast<std::size_t>(round);
    }
    result.machine = read_machine(entry, source, repetitions);
    for (const json& figure : get<std::vector<json>>(entry, "figures", source)) {
        result.figures.push_back(read_figure(figure, source, repetitions));
    }
    return result;
}

ordered_json to_json(const std::vector<Difference>& differences) {
    ordered_json list = ordered_json::array();
    for (const Difference& difference : differences) {
        ordered_json values = ordered_json::array();
        for (const auto& [value, ranks] : difference.values) {
            values.push_back({{"value", value}, {"ranks", ranks}});
        }
        list.push_back({{"key", difference.key}, {"values", values}});
    }
    return list;
}

std::vector<Difference> read_differences(const json& document, const std::string& source) {
    std::vector<Difference> differences;
    for (const json& entry : get<std::vector<json>>(document, "differences", source)) {
        Difference& difference = differences.emplace_back(Difference{get<std::string>(entry, "key", source), {}});
        for (const json& value : get<std::vector<json>>(entry, "values", source)) {
            difference.values.push_back({get<json>(value, "value", source), get<std::string>(value, "ranks", source)});
        }
    }
    return differences;
}

ordered_json to_json(const std::optional<Headline>& headline) {
    if (!headline) {
        return nullptr;
    }
    return {{"name", headline->name},      {"value", headline->value},
            {"unit", headline->unit},      {"interval", {headline->low, headline->high}},
            {"case", headline->case_name}, {"floor_percent", or_null(headline->floor_percent)}};
}

std::optional<Headline> read_headline(const json& document, const std::string& source) {
    const json entry = io::get_or<json>(document, "headline", nullptr, source);
    if (entry.is_null()) {
        return std::nullopt;
    }
    const auto interval = get<std::vector<double>>(entry, "interval", source);
    core::require(interval.size() == 2, core::ExitCode::corrupt_input,
                  "{}: interval of the headline has {} numbers (2 are needed); write the file again", source,
                  interval.size());
    return Headline{.name = get<std::string>(entry, "name", source),
                    .unit = get<std::string>(entry, "unit", source),
                    .value = get<double>(entry, "value", source),
                    .low = interval[0],
                    .high = interval[1],
                    .case_name = get<std::string>(entry, "case", source),
                    .floor_percent = optional_number(entry, "floor_percent", source)};
}

template <class Entries>
auto find_by_name(const Entries& entries, const std::string& name) -> decltype(entries.data()) {
    const auto found =
        std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == name; });
    return found == entries.end() ? nullptr : &*found;
}

}  // namespace

std::optional<double> Figure::gflops(double of_value) const {
    static const std::map<std::string, double> seconds = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}};
    if (!work) {
        return std::nullopt;
    }
    const auto found = seconds.find(unit);
    return found == seconds.end() ? of_value : 1e-9 * work->operations / (found->second * of_value);
}

const std::string* Figure::parameter(const std::string& key) const {
    const auto found = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const auto& parameter) { return parameter.first == key; });
    return found == parameters.end() ? nullptr : &found->second;
}

const Figure* CaseResult::find(const std::string& figure) const {
    return find_by_name(figures, figure);
}

const Figure* CaseResult::find(const std::string& quantity, const Parameters& with) const {
    const auto found = std::find_if(figures.begin(), figures.end(), [&](const Figure& figure) {
        return figure.quantity == quantity && figure.parameters == with;
    });
    return found == figures.end() ? nullptr : &*found;
}

const CaseResult* Results::find(const std::string& case_name) const {
    return find_by_name(cases, case_name);
}

ordered_json to_json(const Results& results) {
    ordered_json document = {{"schema", schema},
                             {"command", results.command},
                             {"deck", results.deck.empty() ? ordered_json(nullptr) : ordered_json(results.deck)},
                             {"started", results.started},
                             {"seconds", results.seconds},
                             {"complete", results.complete},
                             {"turns", results.turns},
                             {"program", results.program},
                             {"ranks", results.ranks},
                             {"differences", to_json(results.differences)},
                             {"warnings", results.warnings}};
    document["cases"] = ordered_json::array();
    for (const CaseResult& result : results.cases) {
        document["cases"].push_back(to_json(result));
    }
    document["headline"] = to_json(results.headline);
    return document;
}

Results read_results(const std::filesystem::path& file) {
    const std::string source = file.string();
    const json document = io::read_json(file);
    const auto found = io::get_or<std::string>(document, "schema", "none", source);
    core::require(found == schema, core::ExitCode::corrupt_input,
                  "{} is no result of this version (schema {}, {} is read); run the benchmark again with --output",
                  source, found, schema);
    Results results = {.command = get<std::string>(document, "command", source),
                       .deck = io::get_or<std::string>(document, "deck", "", source),
                       .started = get<std::string>(document, "started", source),
                       .seconds = get<double>(document, "seconds", source),
                       .complete = get<bool>(document, "complete", source),
                       .turns = io::get_or<bool>(document, "turns", false, source),
                       .program = get<json>(document, "program", source),
                       .ranks = get<json>(document, "ranks", source),
                       .warnings = get<std::vector<std::string>>(document, "warnings", source)};
    core::require(
        results.ranks.is_array() && results.program.is_object(), core::ExitCode::corrupt_input,
        "{}: program or ranks are not what docs/results.md says (an object and an array); write the file again",
        source);
    for (const auto& rank : results.ranks) {
        core::require(rank.is_object(), core::ExitCode::corrupt_input,
                      "{}: ranks has an entry that is no object; write the file again", source);
    }
    results.differences = read_differences(document, source);
    for (const json& entry : get<std::vector<json>>(document, "cases", source)) {
        results.cases.push_back(read_case(entry, source));
    }
    results.headline = read_headline(document, source);
    return results;
}

}  // namespace moesaic::measure
