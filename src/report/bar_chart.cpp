#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace moesaic::report {

namespace {

constexpr double bar_height = 22;
constexpr double gap = 8;
constexpr std::size_t columns_of_legend = 3;
constexpr double least_length_of_number = 9;  // of a part, for its number to fit

/// What axes and sums of parts can show: a length.
double length_of(double value) {
    return can_show({}, value) ? std::max(0.0, value) : 0;
}

double sum_of(const std::vector<double>& parts) {
    double sum = 0;
    for (const double value : parts) {
        sum += length_of(value);
    }
    return length_of(sum);
}

/// A part's number in the legend stands for its colour.
std::size_t colour_of(const BarChart& chart, std::size_t part) {
    return chart.last_is_rest && part + 1 == chart.parts.size() ? colour_of_rest : part % part_colours;
}

void draw_bar(Drawing& drawing, const BarChart& chart, std::size_t bar, const Scale& x, double top) {
    double reached = 0;
    for (std::size_t p = 0; p < chart.values[bar].size(); ++p) {
        const double value = length_of(chart.values[bar][p]);
        const double left = x.at(reached);
        const double length = x.at(reached + value) - left;
        reached += value;
        if (length <= 0) {
            continue;
        }
        drawing.rectangle(
            left, top, length, bar_height,
            fmt::format("fill=\"{}\" stroke=\"#fff\" stroke-width=\"1\"", part_colour(colour_of(chart, p))),
            fmt::format("{}, {}: {} {}", chart.bars[bar], chart.parts[p], readable(value), chart.x.unit));
        if (length >= least_length_of_number && chart.parts.size() > 1) {
            drawing.text(left + length / 2, top + 15, std::to_string(p + 1), text_on(colour_of(chart, p)));
        }
    }
}

void draw_legend(Drawing& drawing, const BarChart& chart, const Frame& frame) {
    for (std::size_t p = 0; p < chart.parts.size(); ++p) {
        const double left = frame.left + static_cast<double>(p % columns_of_legend) * (frame.right - frame.left) /
                                             static_cast<double>(columns_of_legend);
        const double at = frame.bottom + 48 + legend_line * static_cast<double>(p / columns_of_legend);
        drawing.rectangle(left, at, 20, 14, fmt::format("fill=\"{}\"", part_colour(colour_of(chart, p))));
        drawing.text(left + 10, at + 11, std::to_string(p + 1), text_on(colour_of(chart, p)));
        drawing.text(left + 27, at + 12, chart.parts[p]);
    }
}

}  // namespace

std::string to_svg(const BarChart& chart) {
    constexpr std::size_t most_letters = 44;
    double longest = 0;
    double widest_sum = 0;
    double widest_name = 0;
    std::vector<std::string> sums;
    std::vector<std::string> names;
    for (std::size_t b = 0; b < chart.bars.size(); ++b) {
        const double sum = sum_of(chart.values[b]);
        longest = std::max(longest, sum);
        sums.push_back(fmt::format("{} {}", readable(sum), chart.x.unit));
        names.push_back(shortened(chart.bars[b], most_letters));
        widest_sum = std::max(widest_sum, width_of(sums.back()));
        widest_name = std::max(widest_name, width_of(names.back()));
    }
    const bool has_legend = chart.parts.size() > 1;
    const double legend =
        has_legend ? legend_line * static_cast<double>((chart.parts.size() + columns_of_legend - 1) / columns_of_legend)
                   : 0;
    const Frame frame = {14 + widest_name, 10, chart_width - 14 - widest_sum,
                         14 + (bar_height + gap) * static_cast<double>(chart.bars.size())};
    Drawing drawing(chart.title, chart_width, frame.bottom + 46 + legend);
    Axis axis = chart.x;
    axis.from_zero = true;
    const Scale x(axis, 0, longest, frame.left, frame.right, Scale::Ends::exact);
    draw_x_axis(drawing, frame, axis, x);
    drawing.rectangle(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top, frame_style);
    for (std::size_t b = 0; b < chart.bars.size(); ++b) {
        const double top = frame.top + gap / 2 + (bar_height + gap) * static_cast<double>(b);
        drawing.text(frame.left - 6, top + 16, names[b], "text-anchor=\"end\"");
        if (sum_of(chart.values[b]) > 0) {
            draw_bar(drawing, chart, b, x, top);
        }
        drawing.text(frame.right + 6, top + 16, sums[b]);
    }
    if (has_legend) {
        draw_legend(drawing, chart, frame);
    }
    return drawing.finish();
}

}  // namespace moesaic::report
