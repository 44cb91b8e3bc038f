#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::report {
namespace {

/// The palette of Okabe and Ito (2008), which people of all kinds of colour vision can tell apart; yellow is left out,
/// because it is too light for lines on white.
constexpr std::array<const char*, 7> palette = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                "#E69F00", "#56B4E9", "#000000"};
constexpr std::array<const char*, 5> dashes = {"", "7 3", "2 3", "9 3 2 3", "12 4"};

constexpr const char* grid_style = "stroke=\"#d8d8d8\" stroke-width=\"1\"";

std::string label_of(const Axis& axis) {
    return axis.unit.empty() ? axis.label : axis.label + " (" + axis.unit + ")";
}

/// 1, 2 and 5 times powers of ten, from the last one that is not above `low` to the first one that is not below `high`,
/// two at least.
std::vector<double> round_numbers(double low, double high) {
    std::vector<double> numbers;
    for (double exponent = std::floor(std::log10(low)); numbers.size() < 2 || numbers.back() < high * (1 - 1e-9);
         ++exponent) {
        for (const double digit : {1, 2, 5}) {
            const double number = digit * std::pow(10, exponent);
            if (!numbers.empty() && number <= low * (1 + 1e-9)) {
                numbers.clear();
            }
            if (numbers.size() < 2 || numbers.back() < high * (1 - 1e-9)) {
                numbers.push_back(number);
            }
        }
    }
    return numbers;
}

}  // namespace

const char* colour(std::size_t i) {
    return palette[i % palette.size()];
}

std::string text_on(std::size_t i) {
    const bool light = i % palette.size() == 4 || i % palette.size() == 5;
    return fmt::format("text-anchor=\"middle\" fill=\"{}\" font-weight=\"bold\" font-size=\"11\"",
                       light ? "#000" : "#fff");
}

std::string line_style(std::size_t i) {
    const std::string dash = dashes[i % dashes.size()];
    return fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}", colour(i),
                       dash.empty() ? "" : " stroke-dasharray=\"" + dash + "\"");
}

Scale::Scale(const Axis& axis, double low, double high, double from, double to)
    : logarithmic_(axis.logarithmic), from_(from), to_(to) {
    if (logarithmic_) {
        const std::vector<double> round = round_numbers(low, high);
        low_ = std::log10(round.front());
        high_ = std::log10(round.back());
        for (const double tick : round) {
            const double exponent = std::log10(tick);
            if (high_ - low_ <= 2 || std::abs(exponent - std::round(exponent)) < 1e-9) {
                ticks_.push_back(tick);
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

double Scale::at(double value) const {
    const double v = logarithmic_ ? std::log10(value) : value;
    return from_ + (to_ - from_) * (v - low_) / (high_ - low_);
}

Drawing::Drawing(const std::string& title, double width, double height)
    : text_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" "
                        "height=\"{:.0f}\" role=\"img\" aria-label=\"{}\" font-family=\"sans-serif\" "
                        "font-size=\"12\">\n<title>{}</title>\n",
                        width, height, width, height, escape_xml(title), escape_xml(title))) {}

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

}  // namespace moesaic::report
