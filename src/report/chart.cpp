#include "report/chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace moesaic::report {
namespace {

constexpr double width = 760;
constexpr double legend_line = 18;

/// The palette of Okabe and Ito (2008), which people of all kinds of colour vision can tell apart; yellow is left out,
/// because it is too light for lines on white.
constexpr std::array<const char*, 7> palette = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                "#E69F00", "#56B4E9", "#000000"};
constexpr std::array<const char*, 5> dashes = {"", "7 3", "2 3", "9 3 2 3", "12 4"};

const char* colour(std::size_t i) {
    return palette[i % palette.size()];
}

/// Style of text on that colour.
std::string text_on(std::size_t i) {
    const bool light = i % palette.size() == 4 || i % palette.size() == 5;
    return fmt::format("text-anchor=\"middle\" fill=\"{}\" font-weight=\"bold\" font-size=\"11\"",
                       light ? "#000" : "#fff");
}

/// From values to places along one axis, with the values to be named.
class Scale {
public:
    Scale(const Axis& axis, double low, double high, double from, double to)
        : logarithmic_(axis.logarithmic), from_(from), to_(to) {
        if (logarithmic_) {
            low_ = std::floor(std::log10(low) + 1e-9);
            high_ = std::max(std::ceil(std::log10(high) - 1e-9), low_ + 1);
            for (double exponent = low_; exponent <= high_ + 0.5; ++exponent) {
                ticks_.push_back(std::pow(10, exponent));
                if (high_ - low_ <= 2 && exponent < high_) {
                    ticks_.push_back(2 * std::pow(10, exponent));
                    ticks_.push_back(5 * std::pow(10, exponent));
                }
            }
            return;
        }
        if (axis.from_zero) {
            low = std::min(low, 0.0);
        }
        if (high <= low) {
            high = low + 1;
        }
        const double raw = (high - low) / 5;
        const double power = std::pow(10, std::floor(std::log10(raw)));
        const double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
        low_ = std::floor(low / step + 1e-9) * step;
        high_ = std::ceil(high / step - 1e-9) * step;
        for (double tick = low_; tick <= high_ + step / 2; tick += step) {
            ticks_.push_back(std::abs(tick) < step / 1e6 ? 0 : tick);
        }
    }

    [[nodiscard]] double at(double value) const {
        const double v = logarithmic_ ? std::log10(value) : value;
        return from_ + (to_ - from_) * (v - low_) / (high_ - low_);
    }
    [[nodiscard]] const std::vector<double>& ticks() const { return ticks_; }

private:
    bool logarithmic_;
    double from_;
    double to_;
    double low_ = 0;
    double high_ = 1;
    std::vector<double> ticks_;
};

std::string label_of(const Axis& axis) {
    return axis.unit.empty() ? axis.label : axis.label + " (" + axis.unit + ")";
}

/// Collects elements; coordinates are those of the viewBox.
class Drawing {
public:
    Drawing(const std::string& title, double drawing_width, double height)
        : text_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" "
                            "height=\"{:.0f}\" role=\"img\" aria-label=\"{}\" font-family=\"sans-serif\" "
                            "font-size=\"12\">\n<title>{}</title>\n",
                            drawing_width, height, drawing_width, height, escape_xml(title), escape_xml(title))) {}

    void line(double x1, double y1, double x2, double y2, const std::string& style) {
        text_ +=
            fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2, y2, style);
    }
    void rectangle(double x, double y, double w, double h, const std::string& style, const std::string& tip = "") {
        text_ +=
            fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}", x, y, w, h, style);
        text_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escape_xml(tip));
    }
    void text(double x, double y, const std::string& content, const std::string& style = "") {
        text_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, style, escape_xml(content));
    }
    void path(const std::string& points, const std::string& style) {
        text_ += fmt::format("<polyline points=\"{}\" {}/>\n", points, style);
    }
    void area(const std::string& points, const std::string& style) {
        text_ += fmt::format("<polygon points=\"{}\" {}/>\n", points, style);
    }
    /// Circle, square, triangle and diamond in turn.
    void marker(double x, double y, std::size_t kind) {
        const std::string style = fmt::format("fill=\"{}\"", colour(kind));
        switch (kind % 4) {
            case 0:
                text_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" {}/>\n", x, y, style);
                break;
            case 1:
                rectangle(x - 3.2, y - 3.2, 6.4, 6.4, style);
                break;
            case 2:
                area(fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}", x, y - 4.2, x - 4, y + 3, x + 4, y + 3),
                     style);
                break;
            default:
                area(fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}", x, y - 4.6, x + 4.6, y, x,
                                 y + 4.6, x - 4.6, y),
                     style);
        }
    }
    [[nodiscard]] std::string finish() const { return text_ + "</svg>\n"; }

private:
    std::string text_;
};

std::string line_style(std::size_t i) {
    const std::string dash = dashes[i % dashes.size()];
    return fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}", colour(i),
                       dash.empty() ? "" : " stroke-dasharray=\"" + dash + "\"");
}

const std::string grid_style = "stroke=\"#d8d8d8\" stroke-width=\"1\"";
const std::string frame_style = "fill=\"none\" stroke=\"#555\" stroke-width=\"1\"";

struct Frame {
    double left;
    double top;
    double right;
    double bottom;
};

void draw_x_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale) {
    for (const double tick : scale.ticks()) {
        drawing.line(scale.at(tick), frame.top, scale.at(tick), frame.bottom, grid_style);
        drawing.text(scale.at(tick), frame.bottom + 16, readable(tick), "text-anchor=\"middle\"");
    }
    drawing.text((frame.left + frame.right) / 2, frame.bottom + 34, label_of(axis), "text-anchor=\"middle\"");
}

void draw_y_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale) {
    for (const double tick : scale.ticks()) {
        drawing.line(frame.left, scale.at(tick), frame.right, scale.at(tick), grid_style);
        drawing.text(frame.left - 6, scale.at(tick) + 4, readable(tick), "text-anchor=\"end\"");
    }
    const double middle = (frame.top + frame.bottom) / 2;
    drawing.text(14, middle, label_of(axis),
                 fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1f})\"", middle));
}

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

/// A colour between white and dark blue, of equal steps in lightness; share in [0, 1].
std::string shade(double share) {
    const double s = std::clamp(share, 0.0, 1.0);
    const auto mix = [&](double light, double dark) {
        return static_cast<int>(std::lround(light + s * (dark - light)));
    };
    return fmt::format("#{:02x}{:02x}{:02x}", mix(255, 8), mix(255, 48), mix(255, 107));
}

}  // namespace

std::string escape_xml(const std::string& text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            default:
                // XML has no other control characters than these three.
                out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' && c != '\r' ? ' ' : c;
        }
    }
    return out;
}

std::string readable(double value) {
    const double magnitude = std::abs(value);
    if (value == std::round(value) && magnitude < 1e6) {
        return fmt::format("{:.0f}", value);
    }
    return magnitude >= 1000 && magnitude < 1e6 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

std::string to_svg(const LineChart& chart) {
    constexpr std::size_t short_name = 42;  // letters that fit into half the width
    const std::size_t in_line = std::all_of(chart.series.begin(), chart.series.end(),
                                            [](const Series& series) { return series.name.size() <= short_name; })
                                    ? 2
                                    : 1;
    const double legend = legend_line * static_cast<double>((chart.series.size() + in_line - 1) / in_line);
    const Frame frame = {64, 14, width - 16, 300};
    Drawing drawing(chart.title, width, frame.bottom + 46 + legend);
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
    const Frame frame = {std::min(24 + 7.0 * static_cast<double>(letters), 260.0), 10, width - 30,
                         14 + (bar_height + gap) * static_cast<double>(chart.bars.size())};
    Drawing drawing(chart.title, width, frame.bottom + 46 + legend);
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

std::string to_svg(const HeatMap& chart) {
    const auto rows = static_cast<double>(chart.rows.size());
    const auto columns = static_cast<double>(chart.columns.size());
    const Frame frame = {110, 10, width - 110, 10 + std::clamp(24 * rows, 60.0, 420.0)};
    Drawing drawing(chart.title, width, frame.bottom + 42);
    double largest = 0;
    for (const std::vector<double>& row : chart.values) {
        largest = std::accumulate(row.begin(), row.end(), largest, [](double a, double b) { return std::max(a, b); });
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
