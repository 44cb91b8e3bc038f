#include "report/run_metrics.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "io/json.hpp"
#include "io/lines.hpp"
#include "measure/run_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::report {
namespace {

namespace keys = measure::run_keys;

void read_line(const io::Line& line, const std::string& file, Metrics& metrics) {
    const std::string source = fmt::format("{}:{}", file, line.number);
    const nlohmann::json entry = io::parse_json(line.text, file, {}, line.number);
    const auto number = [&](const char* key) { return io::get<double>(entry, key, source); };
    // What is not finite is written as null.
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    const auto optional = [&](const char* key) {
        return entry.contains(key) ? std::optional(io::get_or<double>(entry, key, none, source)) : std::nullopt;
    };
    if (io::get_or<double>(entry, keys::step, 0, source) < 0) {
        core::fail(core::ExitCode::corrupt_input, "{}: a step has a number below 0 ({}); get the file again", source,
                   number(keys::step));
    }
    if (entry.contains(keys::eval_loss)) {
        metrics.evaluations.push_back({number(keys::step), io::get_or<double>(entry, keys::eval_loss, none, source),
                                       number(keys::eval_exact), number(keys::eval_tokens)});
    } else {
        metrics.steps.push_back({number(keys::step), io::get_or<double>(entry, keys::loss, none, source),
                                 io::get_or<double>(entry, keys::grad_norm, none, source), number(keys::lr),
                                 number(keys::tokens_per_second),
                                 io::get_or<double>(entry, keys::expert_load_ratio, 0, source),
                                 io::get_or<double>(entry, keys::unused_experts, 0, source),
                                 io::get<bool>(entry, keys::skipped, source), optional(keys::aux_loss),
                                 optional(keys::slowest_rank), io::get_or<double>(entry, keys::slowness, 0, source)});
    }
}

/// So many steps that single batches don't show, and so few that nothing of the course is lost; 0 for few steps, which
/// show it themselves.
std::size_t window_of(std::size_t steps) {
    constexpr std::size_t least_steps = 20;
    constexpr std::size_t part = 20;
    constexpr std::size_t least = 5;
    constexpr std::size_t most = 100;
    return steps < least_steps ? 0 : std::clamp(steps / part, least, most);
}

/// Of the last `window` values each; those that are not finite don't count.
std::vector<double> trailing_means(const std::vector<double>& values, std::size_t window) {
    std::vector<double> means;
    for (std::size_t i = 0; i < values.size(); ++i) {
        double mean = 0;
        double count = 0;
        for (std::size_t j = i - std::min(i, window - 1); j <= i; ++j) {
            if (std::isfinite(values[j])) {
                ++count;
                mean += (values[j] - mean) / count;
            }
        }
        means.push_back(count > 0 ? mean : std::numeric_limits<double>::quiet_NaN());
    }
    return means;
}

}  // namespace

Metrics read_metrics(const std::filesystem::path& file) {
    Metrics metrics;
    if (!std::filesystem::exists(file)) {
        return metrics;
    }
    constexpr std::size_t most_named = 10;
    std::size_t more = 0;
    io::for_each_line(file, io::max_json_line_bytes, [&](const io::Line& line) {
        try {
            read_line(line, file.string(), metrics);
        } catch (const core::Error& error) {
            const bool is_named = metrics.damage.size() < most_named;
            if (line.ended && is_named) {
                metrics.damage.emplace_back(error.what());
            }
            more += line.ended && !is_named ? 1 : 0;
        }
    });
    if (more > 0) {
        metrics.damage.push_back(fmt::format("{}: {} like these", file.string(), core::counted(more, "more line")));
    }
    return metrics;
}

Axis step_axis() {
    return {.label = "optimizer step", .unit = "", .whole = true};
}

Series series_of(const std::string& name, const std::vector<Step>& steps, double Step::*value) {
    Series series{.name = name, .x = {}, .y = {}, .low = {}, .high = {}, .markers = false};
    for (const Step& step : steps) {
        series.x.push_back(step.step);
        series.y.push_back(step.*value);
    }
    return series;
}

Series smooth_training_loss_of(const Metrics& metrics, const std::string& name) {
    Series series = series_of(name, metrics.steps, &Step::loss);
    if (const std::size_t window = window_of(metrics.steps.size()); window > 0) {
        series.name += fmt::format(", mean of the last {} steps", window);
        series.y = trailing_means(series.y, window);
    }
    return series;
}

std::vector<Series> training_loss_of(const Metrics& metrics, const std::string& name) {
    Series raw = series_of(name + ", batch before the update", metrics.steps, &Step::loss);
    if (window_of(metrics.steps.size()) == 0) {
        return {raw};
    }
    raw.stroke = Stroke::faint;
    raw.style = 0;
    Series smooth = smooth_training_loss_of(metrics, name);
    smooth.style = 0;
    return {raw, smooth};
}

Series evaluation_loss_of(const Metrics& metrics, const std::string& name) {
    Series series{.name = name, .x = {}, .y = {}, .low = {}, .high = {}, .stroke = Stroke::points};
    for (const Evaluation& evaluation : metrics.evaluations) {
        series.x.push_back(evaluation.step);
        series.y.push_back(evaluation.loss);
    }
    return series;
}

}  // namespace moesaic::report
