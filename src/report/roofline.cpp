#include "report/roofline.hpp"

#include "core/counted.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace moesaic::report {
namespace {

namespace figures = measure::figures;
using measure::CaseResult;
using measure::Results;

constexpr const char* explanation =
    "The limits were measured in the same run, by as many threads. Operations are those of the base weights; bytes are "
    "what must come from memory at least: what caches hold already can lift a point to their slopes.";

/// Cases whose ranks had as many threads while as many ranks measured: they share limits.
struct Team {
    core::index_t ranks = 0;
    core::index_t threads = 0;

    explicit Team(const CaseResult& result) : ranks(result.ranks), threads(result.threads) {}
    auto operator<=>(const Team&) const = default;
};

/// Limits of a rank of a team, the best that any case has seen; 0 where none was measured.
class Limits {
public:
    Limits(const Results& results, const Team& team) {
        for (const CaseResult& result : results.cases) {
            for (const measure::Figure& figure : result.figures) {
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
    [[nodiscard]] const char* peak_name() const {
        return of(figures::amx_peak) > 0 ? figures::amx_peak : figures::isa_peak;
    }
    [[nodiscard]] double peak() const { return of(peak_name()); }

private:
    std::map<std::string, double> of_name_;
};

bool is_point(const measure::Figure& figure) {
    return figure.work && figure.summary.n > 0;
}

/// Of the line that the figure is in: figures that differ in rows or tokens alone share one. Ranks and threads, which a
/// case may have in its name, are those of the chart.
std::string name_of(const CaseResult& result, const measure::Figure& figure) {
    return result.name.substr(0, result.name.rfind('@')) + " " + figure.quantity;
}

/// A quantity looks the same in the charts of all teams.
std::map<std::string, std::size_t> styles_of(const Results& results) {
    std::map<std::string, std::size_t> styles;
    for (const CaseResult& result : results.cases) {
        for (const measure::Figure& figure : result.figures) {
            if (is_point(figure)) {
                styles.try_emplace(name_of(result, figure), styles.size());
            }
        }
    }
    return styles;
}

void add_points(const CaseResult& result, std::map<std::string, Series>& points) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    for (const measure::Figure& figure : result.figures) {
        if (is_point(figure)) {
            const std::string name = name_of(result, figure);
            Series& series = points.try_emplace(name, Series{name, {}, {}, {}, {}}).first->second;
            const auto [low, high] =
                std::minmax({*figure.gflops(figure.summary.low), *figure.gflops(figure.summary.high)});
            series.x.push_back(figure.work->intensity());
            series.y.push_back(*figure.gflops(figure.value));
            series.low.push_back(figure.summary.has_interval() ? low : none);
            series.high.push_back(figure.summary.has_interval() ? high : none);
        }
    }
}

double least_x(const Series& series) {
    return *std::min_element(series.x.begin(), series.x.end());
}

double greatest_x(const Series& series) {
    return *std::max_element(series.x.begin(), series.x.end());
}

/// What a rank of the team reached, below its limits; nothing where either is missing.
std::optional<LineChart> roofline_of(const Results& results, const Team& team,
                                     const std::map<std::string, std::size_t>& styles) {
    const Limits limits(results, team);
    std::map<std::string, Series> points;
    for (const CaseResult& result : results.cases) {
        if (Team(result) == team) {
            add_points(result, points);
        }
    }
    const double peak = limits.peak();
    if (points.empty() || peak <= 0 || limits.of(figures::dram_read) <= 0) {
        return {};
    }
    // The axis ends with whole powers of ten, and the limits with it.
    const double ridge = peak / limits.of(figures::dram_read);
    double least = ridge / 10;
    double most = ridge * 10;
    for (const auto& [name, series] : points) {
        least = std::min(least, least_x(series));
        most = std::max(most, greatest_x(series));
    }
    least = std::pow(10, std::floor(std::log10(least)));
    most = std::pow(10, std::ceil(std::log10(most)));

    LineChart chart{fmt::format("Roofline of a rank: {}, {} each", core::counted(team.ranks, "rank"),
                                core::counted(team.threads, "thread")),
                    {"operations per byte from memory", "FLOP/B", true},
                    {"speed", "GFLOP/s", true},
                    {}};
    const auto add_limit = [&](const std::string& name, const std::vector<double>& x, const std::vector<double>& y) {
        chart.series.push_back({.name = name, .x = x, .y = y, .low = {}, .high = {}, .stroke = Stroke::reference});
    };
    add_limit(fmt::format("{} {} GFLOP/s", limits.peak_name(), readable(peak)), {ridge, most}, {peak, peak});
    for (const char* name : {figures::dram_read, figures::l3_read, figures::l2_read}) {
        const double bandwidth = limits.of(name);
        const double end = peak / bandwidth;
        if (bandwidth > 0 && end > least) {
            add_limit(fmt::format("{} {} GB/s", name, readable(bandwidth)), {least, end}, {least * bandwidth, peak});
        }
    }
    for (const auto& [name, series] : points) {
        chart.series.push_back(series);
        chart.series.back().style = styles.at(name);
    }
    return chart;
}

}  // namespace

std::optional<Section> roofline_section(const Results& results) {
    std::set<Team> teams;
    for (const CaseResult& result : results.cases) {
        teams.emplace(result);
    }
    const std::map<std::string, std::size_t> styles = styles_of(results);
    Section section{"Roofline", {}};
    for (const Team& team : teams) {
        if (const auto chart = roofline_of(results, team, styles)) {
            section.blocks.emplace_back(Figure{*chart, section.blocks.empty() ? explanation : ""});
        }
    }
    return section.blocks.empty() ? std::nullopt : std::optional(section);
}

}  // namespace moesaic::report
