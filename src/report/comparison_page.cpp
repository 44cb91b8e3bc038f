#include "report/comparison_page.hpp"

#include "core/counted.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "report/json_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace moesaic::report {
namespace {

namespace keys = measure::run_keys;

/// Folders' own names, or whole paths where those are the same.
std::vector<std::string> names_of(const std::vector<RunRecord>& runs) {
    std::vector<std::string> names;
    std::set<std::string> different;
    for (const RunRecord& run : runs) {
        names.push_back(run.name());
        different.insert(names.back());
    }
    if (different.size() < names.size()) {
        std::transform(runs.begin(), runs.end(), names.begin(),
                       [](const RunRecord& run) { return run.folder.string(); });
    }
    return names;
}

/// A run has one colour; its evaluations are marked, its training is a line.
Figure losses_of(const std::vector<RunRecord>& runs, const std::vector<std::string>& names) {
    LineChart chart{"Loss of all runs", step_axis(), {"loss", "nats per target token"}, {}};
    for (std::size_t i = 0; i < runs.size(); ++i) {
        if (!runs[i].metrics.steps.empty()) {
            chart.series.push_back(smooth_training_loss_of(runs[i].metrics, names[i] + ", training"));
            chart.series.back().style = i;
        }
        if (!runs[i].metrics.evaluations.empty()) {
            chart.series.push_back(evaluation_loss_of(runs[i].metrics, names[i] + ", evaluation"));
            chart.series.back().style = i;
        }
    }
    return {chart, "Lines: training. Marks: evaluation."};
}

std::vector<Column> columns_of(const std::string& first, const std::vector<std::string>& names) {
    std::vector<Column> columns = {{first, ""}};
    std::transform(names.begin(), names.end(), std::back_inserter(columns), [](const std::string& name) {
        return Column{name, ""};
    });
    return columns;
}

Block differences_of(const std::vector<RunRecord>& runs, const std::vector<std::string>& names) {
    std::map<std::string, std::vector<std::string>> options;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const auto configuration = io::get<nlohmann::json>(runs[i].json, keys::configuration, runs[i].source());
        for (const auto& [key, value] : configuration.items()) {
            options[key].resize(runs.size(), "not there");
            options[key][i] = plain_text(value);
        }
    }
    Table table{"Options that differ", columns_of("option", names), {}};
    for (const auto& [key, values] : options) {
        if (std::any_of(values.begin(), values.end(),
                        [&, &first = values.front()](const std::string& value) { return value != first; })) {
            std::vector<Cell>& row = table.rows.emplace_back(std::vector<Cell>{key});
            row.insert(row.end(), values.begin(), values.end());
        }
    }
    if (table.rows.empty()) {
        return Paragraph{"All options are the same."};
    }
    return table;
}

Table figures_of(const std::vector<RunRecord>& runs, const std::vector<std::string>& names) {
    Table table{"Figures at the end", columns_of("figure", names), {}};
    std::map<std::string, std::size_t> rows;
    const auto set = [&](const std::string& figure, std::size_t run, const Cell& value) {
        const auto [row, is_new] = rows.try_emplace(figure, table.rows.size());
        if (is_new) {
            table.rows.emplace_back(runs.size() + 1, std::string()).front() = figure;
        }
        table.rows[row->second][run + 1] = value;
    };
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const RunRecord& run = runs[i];
        set("steps", i, static_cast<double>(run.metrics.steps.size()));
        for (const Headline& headline : headlines_of(run)) {
            set(headline.name + " (" + headline.unit + ")", i, headline.value);
        }
        const auto& evaluations = run.metrics.evaluations;
        const auto best = std::min_element(evaluations.begin(), evaluations.end(),
                                           [](const Evaluation& a, const Evaluation& b) { return a.loss < b.loss; });
        if (best != evaluations.end()) {
            set("least evaluation loss (nats/token)", i, best->loss);
            set("at step", i, best->step);
        }
        set("finished", i, io::get_or<std::string>(run.json, keys::finished, "no", run.source()));
    }
    return table;
}

}  // namespace

Document compare_runs(const std::vector<RunRecord>& runs) {
    const std::vector<std::string> names = names_of(runs);
    Document document;
    document.subject = "comparison of " + core::counted(runs.size(), "run");
    for (std::size_t i = 0; i < runs.size(); ++i) {
        document.subtitle += (i == 0 ? "" : ", ") + names[i];
        document.damage.insert(document.damage.end(), runs[i].metrics.damage.begin(), runs[i].metrics.damage.end());
    }
    document.subtitle += ".";
    document.sections.push_back(
        {"Runs beside each other", {losses_of(runs, names), figures_of(runs, names), differences_of(runs, names)}});
    return document;
}

}  // namespace moesaic::report
