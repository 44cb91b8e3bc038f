#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace moesaic::report {
namespace {

/// Least and greatest value that an axis can show.
std::pair<double, double> range_of(const LineChart& chart, bool of_x) {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    const auto include = [&](const std::vector<double>& values) {
        for (const double value : values) {
            if (std::isfinite(value) && (value > 0 || !(of_x ? chart.x : chart.y).logarithmic)) {
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

void draw_series(Drawing& drawing, const LineChart& chart, std::size_t index, const Scale& x, const Scale& y) {
    const Series& series = chart.series[index];
    std::string points;
    std::vector<std::size_t> shown;
    for (std::size_t i = 0; i < series.x.size(); ++i) {
        const bool finite = std::isfinite(series.x[i]) && std::isfinite(series.y[i]);
        if (finite && (!chart.x.logarithmic || series.x[i] > 0) && (!chart.y.logarithmic || series.y[i] > 0)) {
            points += fmt::format("{:.1f},{:.1f} ", x.at(series.x[i]), y.at(series.y[i]));
            shown.push_back(i);
        }
    }
    if (shown.size() > 1) {
        drawing.path(points, line_style(index));
    }
    const std::string bar = fmt::format("stroke=\"{}\" stroke-width=\"1.5\"", colour(index));
    for (const std::size_t i : shown) {
        const double at = x.at(series.x[i]);
        if (!series.low.empty() && (!chart.y.logarithmic || series.low[i] > 0)) {
            drawing.line(at, y.at(series.low[i]), at, y.at(series.high[i]), bar);
            drawing.line(at - 4, y.at(series.low[i]), at + 4, y.at(series.low[i]), bar);
            drawing.line(at - 4, y.at(series.high[i]), at + 4, y.at(series.high[i]), bar);
        }
        if (series.markers || shown.size() == 1) {
            drawing.marker(at, y.at(series.y[i]), index);
        }
    }
}

}  // namespace

std::string to_svg(const LineChart& chart) {
    constexpr std::size_t short_name = 42;  // letters that fit into half the width
    const std::size_t in_line = std::all_of(chart.series.begin(), chart.series.end(),
                                            [](const Series& series) { return series.name.size() <= short_name; })
                                    ? 2
                                    : 1;
    const double legend = legend_line * static_cast<double>((chart.series.size() + in_line - 1) / in_line);
    const Frame frame = {64, 14, chart_width - 16, 300};
    Drawing drawing(chart.title, chart_width, frame.bottom + 46 + legend);
    const auto [x_low, x_high] = range_of(chart, true);
    const auto [y_low, y_high] = range_of(chart, false);
    const Scale x(chart.x, x_low, x_high, frame.left, frame.right);
    const Scale y(chart.y, y_low, y_high, frame.bottom, frame.top);
    draw_x_axis(drawing, frame, chart.x, x);
    draw_y_axis(drawing, frame, chart.y, y);
    drawing.rectangle(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top, frame_style);
    for (std::size_t i = 0; i < chart.series.size(); ++i) {
        draw_series(drawing, chart, i, x, y);
        const double left = frame.left + (i % in_line == 0 ? 0 : (frame.right - frame.left) / 2);
        const double at = frame.bottom + 50 + legend_line * static_cast<double>(i / in_line);
        drawing.line(left, at, left + 34, at, line_style(i));
        if (chart.series[i].markers) {
            drawing.marker(left + 17, at, i);
        }
        drawing.text(left + 42, at + 4, chart.series[i].name);
    }
    return drawing.finish();
}

}  // namespace moesaic::report
