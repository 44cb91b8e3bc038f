#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace moesaic::report {

std::string to_svg(const BarChart& chart) {
    constexpr double bar_height = 22;
    constexpr double gap = 8;
    double longest = 0;
    for (const std::vector<double>& bar : chart.values) {
        double sum = 0;
        for (const double value : bar) {
            sum += value;
        }
        longest = std::max(longest, sum);
    }
    std::size_t letters = 4;
    for (const std::string& bar : chart.bars) {
        letters = std::max(letters, bar.size());
    }
    const double columns = 3;
    const double legend =
        chart.parts.size() > 1 ? legend_line * std::ceil(static_cast<double>(chart.parts.size()) / columns) : 0;
    const Frame frame = {std::min(24 + 7.0 * static_cast<double>(letters), 260.0), 10, chart_width - 90,
                         14 + (bar_height + gap) * static_cast<double>(chart.bars.size())};
    Drawing drawing(chart.title, chart_width, frame.bottom + 46 + legend);
    Axis axis = chart.x;
    axis.from_zero = true;
    const Scale x(axis, 0, longest, frame.left, frame.right);
    draw_x_axis(drawing, frame, axis, x);
    drawing.rectangle(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top, frame_style);
    for (std::size_t b = 0; b < chart.bars.size(); ++b) {
        const double top = frame.top + gap / 2 + (bar_height + gap) * static_cast<double>(b);
        drawing.text(frame.left - 6, top + 15, chart.bars[b], "text-anchor=\"end\"");
        double reached = 0;
        for (std::size_t p = 0; p < chart.values[b].size(); ++p) {
            const double value = chart.values[b][p];
            const double left = x.at(reached);
            const double length = x.at(reached + value) - left;
            reached += value;
            if (length <= 0) {
                continue;
            }
            drawing.rectangle(left, top, length, bar_height,
                              fmt::format("fill=\"{}\" stroke=\"#fff\" stroke-width=\"1\"", colour(p)),
                              fmt::format("{}, {}: {} {}", chart.bars[b], chart.parts[p], readable(value), axis.unit));
            if (length > 20 && chart.parts.size() > 1) {  // the number of the part stands for its colour
                drawing.text(left + length / 2, top + 15, std::to_string(p + 1), text_on(p));
            }
        }
        drawing.text(x.at(reached) + 6, top + 15, fmt::format("{} {}", readable(reached), axis.unit));
    }
    for (std::size_t p = 0; p < chart.parts.size() && chart.parts.size() > 1; ++p) {
        const double left = frame.left + static_cast<double>(p % 3) * (frame.right - frame.left) / columns;
        const double at = frame.bottom + 44 + legend_line * static_cast<double>(p / 3);
        drawing.rectangle(left, at, 20, 13, fmt::format("fill=\"{}\"", colour(p)));
        drawing.text(left + 10, at + 11, std::to_string(p + 1), text_on(p));
        drawing.text(left + 26, at + 11, chart.parts[p]);
    }
    return drawing.finish();
}

}  // namespace moesaic::report
