#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::report {
namespace {

/// The palette of Okabe and Ito (2008), which people of all kinds of colour vision can tell apart, and grey.
constexpr std::array<const char*, part_colours + 1> palette = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
                                                               "#56B4E9", "#000000", "#F0E442", "#999999"};
constexpr std::size_t line_colours = 7;  // yellow is too light for lines on white
constexpr std::array<const char*, 5> dashes = {"", "7 3", "2 3", "9 3 2 3", "12 4"};

constexpr const char* grid_style = "stroke=\"#d8d8d8\" stroke-width=\"1\"";

std::string label_of(const Axis& axis) {
    const bool ticks_have_units = axis.bytes;
    return axis.unit.empty() || ticks_have_units ? axis.label : axis.label + " (" + axis.unit + ")";
}

}  // namespace

double width_of(const std::string& text) {
    constexpr double of_letter = 0.62 * font_size;
    const auto letters = std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;  // bytes that continue a letter of UTF-8
    });
    return of_letter * static_cast<double>(letters);
}

std::string shortened(const std::string& text, std::size_t letters) {
    if (text.size() <= letters) {
        return text;
    }
    std::size_t end = letters - 3;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
        --end;
    }
    return text.substr(0, end) + "...";
}

const char* part_colour(std::size_t i) {
    return palette[i == colour_of_rest ? i : i % part_colours];
}

std::string text_on(std::size_t i) {
    const bool light = i % palette.size() == 4 || i % palette.size() == 5 || i % palette.size() >= 7;
    return fmt::format("text-anchor=\"middle\" fill=\"{}\" font-weight=\"bold\" font-size=\"11\"",
                       light ? "#000" : "#fff");
}

const char* line_colour(std::size_t i) {
    return palette[i % line_colours];
}

std::string line_style(std::size_t i, Stroke stroke) {
    const std::string dash = dashes[i % dashes.size()];
    return fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{}{}",
                       stroke == Stroke::reference ? "#767676" : line_colour(i), stroke == Stroke::faint ? 1 : 2,
                       stroke == Stroke::faint ? " stroke-opacity=\"0.45\"" : "",
                       dash.empty() ? "" : " stroke-dasharray=\"" + dash + "\"");
}

Drawing::Drawing(const std::string& title, double width, double height)
    : text_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
                        "aria-label=\"{}\" font-family=\"sans-serif\" font-size=\"{}\">\n<title>{}</title>\n",
                        width, height, escape_xml(title), font_size, escape_xml(title))) {}

void Drawing::line(double x1, double y1, double x2, double y2, const std::string& style) {
    text_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2, y2, style);
}

void Drawing::rectangle(double x, double y, double w, double h, const std::string& style, const std::string& tip) {
    text_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}", x, y, w, h, style);
    text_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escape_xml(tip));
}

void Drawing::text(double x, double y, const std::string& content, const std::string& style) {
    text_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, style, escape_xml(content));
}

void Drawing::path(const std::string& points, const std::string& style) {
    text_ += fmt::format("<polyline points=\"{}\" {}/>\n", points, style);
}

void Drawing::area(const std::string& points, const std::string& style) {
    text_ += fmt::format("<polygon points=\"{}\" {}/>\n", points, style);
}

void Drawing::marker(double x, double y, std::size_t kind) {
    const std::string style = fmt::format("fill=\"{}\"", line_colour(kind));
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

double left_of_frame(const Scale& y) {
    constexpr double title = 26;
    constexpr double gap = 10;
    double widest = 0;
    for (const Scale::Tick& tick : y.ticks()) {
        widest = std::max(widest, width_of(tick.label));
    }
    return title + widest + gap;
}

void draw_x_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale) {
    double free_from = 0;
    for (const Scale::Tick& tick : scale.ticks()) {
        const double at = scale.at(tick.value);
        const double half = width_of(tick.label) / 2;
        drawing.line(at, frame.top, at, frame.bottom, grid_style);
        if (at - half >= free_from) {
            drawing.text(at, frame.bottom + 17, tick.label, "text-anchor=\"middle\"");
            free_from = at + half + 6;
        }
    }
    drawing.text((frame.left + frame.right) / 2, frame.bottom + 36, label_of(axis), "text-anchor=\"middle\"");
}

void draw_y_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale) {
    for (const Scale::Tick& tick : scale.ticks()) {
        const double at = scale.at(tick.value);
        drawing.line(frame.left, at, frame.right, at, grid_style);
        drawing.text(frame.left - 6, at + 4, tick.label, "text-anchor=\"end\"");
    }
    const double middle = (frame.top + frame.bottom) / 2;
    drawing.text(14, middle, label_of(axis),
                 fmt::format("text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1f})\"", middle));
}

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

std::string readable_count(double value) {
    constexpr double most = 1e15;
    return std::abs(value) < most ? fmt::format("{:.0f}", value) : readable(value);
}

std::string readable(double value) {
    const double magnitude = std::abs(value);
    if (value == std::round(value) && magnitude < 1e6) {
        return fmt::format("{:.0f}", value);
    }
    return magnitude >= 1000 && magnitude < 1e6 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

}  // namespace moesaic::report
