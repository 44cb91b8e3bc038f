#include "report/roofline.hpp"

#include "bench/shapes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

namespace moesaic::report {
namespace {

using bench::CaseResult;
using bench::Results;

constexpr const char* explanation =
    "The limits were measured in the same run, by as many threads. Operations are those of the base weights; bytes are "
    "what must come from memory at least: what caches hold already can lift a point to their slopes.";

/// A parameter of a case as a number; 0 if it is none.
double parameter(const CaseResult& result, std::string_view key) {
    for (const auto& [name, value] : result.parameters) {
        double number = 0;
        if (name == key && std::from_chars(value.data(), value.data() + value.size(), number).ec == std::errc()) {
            return number;
        }
    }
    return 0;
}

std::string text_parameter(const CaseResult& result, std::string_view key) {
    for (const auto& [name, value] : result.parameters) {
        if (name == key) {
            return value;
        }
    }
    return {};
}

/// Cases whose ranks had as many threads while as many ranks measured: they share limits.
struct Team {
    bench::index_t ranks = 0;
    bench::index_t threads = 0;

    explicit Team(const CaseResult& result) : ranks(result.ranks), threads(result.threads) {}
    auto operator<=>(const Team&) const = default;
};

/// Limits of a rank of a team, the best that any case has seen; 0 where none was measured.
class Limits {
public:
    Limits(const Results& results, const Team& team) {
        for (const CaseResult& result : results.cases) {
            for (const bench::Figure& figure : result.figures) {
                if (Team(result) == team && figure.value > 0) {
                    double& best = of_name_[figure.name];
                    best = std::max(best, figure.value);
                }
            }
        }
    }
    [[nodiscard]] double of(const std::string& name) const {
        const auto found = of_name_.find(name);
        return found == of_name_.end() ? 0 : found->second;
    }
    [[nodiscard]] const char* peak_name() const { return of("amx_peak") > 0 ? "amx_peak" : "isa_peak"; }
    [[nodiscard]] double peak() const { return of(peak_name()); }

private:
    std::map<std::string, double> of_name_;
};

/// Products of BF16 operands, [m, k] times [k, n], with FP32 results.
void add_products(const CaseResult& result, std::vector<Series>& series) {
    const double n = parameter(result, "n");
    const double k = parameter(result, "k");
    for (const std::string_view stem : {"gemm_M", "onednn_M"}) {
        Series points{fmt::format("{} {}", result.name, stem.substr(0, stem.size() - 2)), {}, {}, {}, {}, true};
        for (const bench::Figure& figure : result.figures) {
            double m = 0;
            if (figure.name.starts_with(stem)) {
                std::from_chars(figure.name.data() + stem.size(), figure.name.data() + figure.name.size(), m);
            }
            if (m > 0 && n > 0 && k > 0) {
                points.x.push_back(2 * m * n * k / (2 * n * k + 2 * m * k + 4 * m * n));
                points.y.push_back(figure.value);
                points.low.push_back(figure.summary.low);
                points.high.push_back(figure.summary.high);
            }
        }
        if (!points.x.empty()) {
            series.push_back(points);
        }
    }
}

/// Base weights only; each expert is read once, and all are in use.
void add_layer(const CaseResult& result, std::vector<Series>& series) {
    const double tokens = parameter(result, "tokens");
    const std::string name = text_parameter(result, "shape");
    if (name.empty()) {
        return;
    }
    bench::LayerShape shape = bench::layer_shape(name);
    const auto size = [&](const char* key) { return static_cast<bench::index_t>(parameter(result, key)); };
    shape = shape.with({"", size("hidden"), size("intermediate"), size("experts"), size("experts-per-token")});
    const double rows = tokens * static_cast<double>(shape.experts_per_token);
    const double experts = std::min(rows, static_cast<double>(shape.experts));
    const double gigaflop = 2e-9 * rows * static_cast<double>(shape.expert_parameters());
    for (const char* pass : {"layer_forward", "layer_backward"}) {
        const bench::Figure* const time = result.find(pass);
        if (time == nullptr || time->unit != "ms" || time->summary.low <= 0 || experts <= 0) {
            continue;
        }
        series.push_back({fmt::format("{} {}", result.name, pass),
                          {rows / experts},
                          {gigaflop / (time->value * 1e-3)},
                          {gigaflop / (time->summary.high * 1e-3)},
                          {gigaflop / (time->summary.low * 1e-3)},
                          true});
    }
}

double least_x(const Series& series) {
    return *std::min_element(series.x.begin(), series.x.end());
}

double greatest_x(const Series& series) {
    return *std::max_element(series.x.begin(), series.x.end());
}

/// What a rank of the team reached, below its limits; nothing where either is missing.
std::optional<LineChart> roofline_of(const Results& results, const Team& team) {
    const Limits limits(results, team);
    std::vector<Series> points;
    for (const CaseResult& result : results.cases) {
        if (Team(result) == team && result.benchmark == "kernels") {
            add_products(result, points);
        } else if (Team(result) == team && result.benchmark == "layer") {
            add_layer(result, points);
        }
    }
    const double peak = limits.peak();
    if (points.empty() || peak <= 0 || limits.of("dram_read") <= 0) {
        return {};
    }
    // The axis ends with whole powers of ten, and the limits with it.
    const double ridge = peak / limits.of("dram_read");
    double least = ridge / 10;
    double most = ridge * 10;
    for (const Series& series : points) {
        least = std::min(least, least_x(series));
        most = std::max(most, greatest_x(series));
    }
    least = std::pow(10, std::floor(std::log10(least)));
    most = std::pow(10, std::ceil(std::log10(most)));

    LineChart chart{fmt::format("Roofline of a rank: {} rank(s), {} thread(s) each", team.ranks, team.threads),
                    {"operations per byte from memory", "FLOP/B", true},
                    {"speed", "GFLOP/s", true},
                    {}};
    const auto add_limit = [&](const std::string& name, const std::vector<double>& x, const std::vector<double>& y) {
        chart.series.push_back({name, x, y, {}, {}, false});
    };
    add_limit(fmt::format("{} {:.4g} GFLOP/s", limits.peak_name(), peak), {ridge, most}, {peak, peak});
    for (const char* name : {"dram_read", "l3_read", "l2_read"}) {
        const double bandwidth = limits.of(name);
        const double end = peak / bandwidth;
        if (bandwidth > 0 && end > least) {
            add_limit(fmt::format("{} {:.4g} GB/s", name, bandwidth), {least, end}, {least * bandwidth, peak});
        }
    }
    chart.series.insert(chart.series.end(), points.begin(), points.end());
    return chart;
}

}  // namespace

std::optional<Section> roofline_section(const Results& results) {
    std::set<Team> teams;
    for (const CaseResult& result : results.cases) {
        if (result.benchmark == "kernels" || result.benchmark == "layer") {
            teams.emplace(result);
        }
    }
    Section section{"Roofline", {}};
    for (const Team& team : teams) {
        if (const auto chart = roofline_of(results, team)) {
            section.blocks.emplace_back(Figure{*chart, section.blocks.empty() ? explanation : ""});
        }
    }
    return section.blocks.empty() ? std::nullopt : std::optional(section);
}

}  // namespace moesaic::report
