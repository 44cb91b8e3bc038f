#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesaic::report {
namespace {

/// A colour between white and dark blue, of equal steps in lightness; share in [0, 1], or what can't be shown.
std::string shade(double share) {
    const double s = can_show({}, share) ? std::clamp(share, 0.0, 1.0) : 0;
    const auto mix = [&](double light, double dark) {
        return static_cast<int>(std::lround(light + s * (dark - light)));
    };
    return fmt::format("#{:02x}{:02x}{:02x}", mix(255, 8), mix(255, 48), mix(255, 107));
}

}  // namespace

std::string to_svg(const HeatMap& chart) {
    const auto rows = static_cast<double>(chart.rows.size());
    const auto columns = static_cast<double>(chart.columns.size());
    const Frame frame = {110, 10, chart_width - 110, 10 + std::clamp(24 * rows, 60.0, 420.0)};
    Drawing drawing(chart.title, chart_width, frame.bottom + 42);
    double largest = 0;
    for (const std::vector<double>& row : chart.values) {
        largest = std::accumulate(row.begin(), row.end(), largest,
                                  [](double a, double b) { return can_show({}, b) ? std::max(a, b) : a; });
    }
    largest = largest > 0 ? largest : 1;
    const double cell_width = (frame.right - frame.left) / std::max(1.0, columns);
    const double cell_height = (frame.bottom - frame.top) / std::max(1.0, rows);
    const bool with_tips = rows * columns < 4000;  // more would only make the page large
    const auto every = [](double places, double room) {
        return static_cast<std::size_t>(std::max(1.0, std::ceil(places * room)));
    };
    for (std::size_t r = 0; r < chart.rows.size(); ++r) {
        const double top = frame.top + cell_height * static_cast<double>(r);
        if (r % every(14, 1 / cell_height) == 0) {
            drawing.text(frame.left - 6, top + cell_height / 2 + 4, chart.rows[r], "text-anchor=\"end\"");
        }
        for (std::size_t c = 0; c < chart.values[r].size(); ++c) {
            drawing.rectangle(
                frame.left + cell_width * static_cast<double>(c), top, cell_width, cell_height,
                fmt::format("fill=\"{}\" stroke=\"#bbb\" stroke-width=\"0.3\"", shade(chart.values[r][c] / largest)),
                with_tips ? fmt::format("{}, {} {}: {} {}", chart.rows[r], chart.columns_label, chart.columns[c],
                                        readable(chart.values[r][c]), chart.unit)
                          : "");
        }
    }
    for (std::size_t c = 0; c < chart.columns.size(); c += every(26, 1 / cell_width)) {
        drawing.text(frame.left + cell_width * (static_cast<double>(c) + 0.5), frame.bottom + 15, chart.columns[c],
                     "text-anchor=\"middle\"");
    }
    drawing.text((frame.left + frame.right) / 2, frame.bottom + 33, chart.columns_label, "text-anchor=\"middle\"");
    constexpr int steps = 10;
    for (int i = 0; i < steps; ++i) {  // the key, darkest on top
        const double share = 1 - i / (steps - 1.0);
        const double height = (frame.bottom - frame.top) / steps;
        drawing.rectangle(frame.right + 14, frame.top + height * i, 14, height,
                          fmt::format("fill=\"{}\"", shade(share)));
    }
    drawing.rectangle(frame.right + 14, frame.top, 14, frame.bottom - frame.top, frame_style);
    drawing.text(frame.right + 33, frame.top + 10, readable(largest));
    drawing.text(frame.right + 33, frame.bottom, "0");
    drawing.text(frame.right + 33, (frame.top + frame.bottom) / 2 + 4, chart.unit);
    return drawing.finish();
}

}  // namespace moesaic::report
