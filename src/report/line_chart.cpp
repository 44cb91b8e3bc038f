#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

namespace moesaic::report {
namespace {

/// Fewer are not joined by a line.
constexpr std::size_t least_points_of_line = 4;

/// Least and greatest value that an axis can show.
std::pair<double, double> range_of(const LineChart& chart, bool of_x) {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    const auto include = [&](const std::vector<double>& values) {
        for (const double value : values) {
            if (can_show(of_x ? chart.x : chart.y, value)) {
                low = std::min(low, value);
                high = std::max(high, value);
            }
        }
    };
    for (const Series& series : chart.series) {
        include(of_x ? series.x : series.y);
        if (!of_x) {
            include(series.low);
            include(series.high);
        }
    }
    return low <= high ? std::pair{low, high} : std::pair{1.0, 2.0};
}

/// How a series is drawn, in the chart and in its legend.
struct Look {
    std::size_t style = 0;
    bool line = false;
    bool markers = false;
};

/// The points that both axes can show.
std::vector<std::size_t> shown_points(const LineChart& chart, const Series& series) {
    std::vector<std::size_t> shown;
    for (std::size_t i = 0; i < series.x.size(); ++i) {
        if (can_show(chart.x, series.x[i]) && can_show(chart.y, series.y[i])) {
            shown.push_back(i);
        }
    }
    return shown;
}

std::vector<Look> looks_of(const LineChart& chart) {
    std::vector<Look> looks;
    std::size_t references = 0;
    for (const Series& series : chart.series) {
        const bool is_reference = series.stroke == Stroke::reference;
        const std::size_t place = is_reference ? references : looks.size() - references;
        references += is_reference ? 1 : 0;
        const bool line = is_reference || (series.stroke != Stroke::points &&
                                           shown_points(chart, series).size() >= least_points_of_line);
        looks.push_back({series.style.value_or(place), line, !is_reference && (series.markers || !line)});
    }
    return looks;
}

void draw_interval(Drawing& drawing, const Axis& axis, double at, double low, double high, const Scale& y,
                   std::size_t style) {
    if (can_show(axis, low) && can_show(axis, high)) {
        const std::string bar = fmt::format("stroke=\"{}\" stroke-width=\"1.5\"", line_colour(style));
        drawing.line(at, y.at(low), at, y.at(high), bar);
        drawing.line(at - 4, y.at(low), at + 4, y.at(low), bar);
        drawing.line(at - 4, y.at(high), at + 4, y.at(high), bar);
    }
}

/// Of the points in one column of half a unit, as many as the eye can tell apart: the first, the last, the lowest and
/// the highest.
std::vector<std::size_t> thinned(const std::vector<std::size_t>& shown, const Series& series, const Scale& x) {
    const auto column = [&](std::size_t i) { return std::lround(2 * x.at(series.x[i])); };
    const auto lower = [&](std::size_t a, std::size_t b) { return series.y[a] < series.y[b]; };
    std::vector<std::size_t> kept;
    for (auto begin = shown.begin(); begin != shown.end();) {
        const auto end = std::find_if(begin, shown.end(), [&](std::size_t i) { return column(i) != column(*begin); });
        const auto [lowest, highest] = std::minmax_element(begin, end, lower);
        for (const std::size_t i : std::set<std::size_t>{*begin, *lowest, *highest, *(end - 1)}) {
            kept.push_back(i);
        }
        begin = end;
    }
    return kept;
}

void draw_series(Drawing& drawing, const LineChart& chart, const Series& series, const Look& look, const Scale& x,
                 const Scale& y) {
    const std::vector<std::size_t> shown = shown_points(chart, series);
    if (look.line) {
        std::string points;
        for (const std::size_t i : thinned(shown, series, x)) {
            points += fmt::format("{:.1f},{:.1f} ", x.at(series.x[i]), y.at(series.y[i]));
        }
        drawing.path(points, line_style(look.style, series.stroke));
    }
    for (const std::size_t i : shown) {
        const double at = x.at(series.x[i]);
        if (!series.low.empty()) {
            draw_interval(drawing, chart.y, at, series.low[i], series.high[i], y, look.style);
        }
        if (look.markers) {
            drawing.marker(at, y.at(series.y[i]), look.style);
        }
    }
}

void draw_legend(Drawing& drawing, const LineChart& chart, const std::vector<Look>& looks, const Frame& frame,
                 std::size_t in_line) {
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
        const double left = frame.left + (i % in_line == 0 ? 0 : (frame.right - frame.left) / 2);
        const double at = frame.bottom + 54 + legend_line * static_cast<double>(i / in_line);
        if (looks[i].line) {
            drawing.line(left, at, left + 34, at, line_style(looks[i].style, chart.series[i].stroke));
        }
        if (looks[i].markers) {
            drawing.marker(left + 17, at, looks[i].style);
        }
        drawing.text(left + 42, at + 4, chart.series[i].name);
    }
}

}  // namespace

std::string to_svg(const LineChart& chart) {
    constexpr std::size_t short_name = 46;  // letters that fit into half the width
    const std::size_t in_line = std::all_of(chart.series.begin(), chart.series.end(),
                                            [](const Series& series) { return series.name.size() <= short_name; })
                                    ? 2
                                    : 1;
    const bool has_legend = chart.series.size() > 1;
    const double legend =
        has_legend ? legend_line * static_cast<double>((chart.series.size() + in_line - 1) / in_line) : 0;
    Frame frame = {0, 14, chart_width - 30, 330};
    Drawing drawing(chart.title, chart_width, frame.bottom + 46 + legend);
    const auto [x_low, x_high] = range_of(chart, true);
    const auto [y_low, y_high] = range_of(chart, false);
    const Scale y(chart.y, y_low, y_high, frame.bottom, frame.top);
    frame.left = left_of_frame(y);
    const Scale x(chart.x, x_low, x_high, frame.left, frame.right);
    draw_x_axis(drawing, frame, chart.x, x);
    draw_y_axis(drawing, frame, chart.y, y);
    drawing.rectangle(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top, frame_style);
    const std::vector<Look> looks = looks_of(chart);
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
        draw_series(drawing, chart, chart.series[i], looks[i], x, y);
    }
    if (has_legend) {
        draw_legend(drawing, chart, looks, frame, in_line);
    }
    return drawing.finish();
}

}  // namespace moesaic::report
