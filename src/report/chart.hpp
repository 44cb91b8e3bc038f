// Charts as inline SVG: no script, no network, no identifiers that could meet those of another chart on the page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::report {

struct Axis {
    std::string label;
    std::string unit;  ///< or empty
    bool logarithmic = false;
    bool from_zero = false;  ///< linear axes only
    bool bytes = false;      ///< logarithmic axes only: powers of two, as "64 KiB"
    bool whole = false;      ///< linear axes only: there is nothing between whole numbers
};

enum class Stroke : std::uint8_t {
    plain,
    points,     ///< markers alone
    faint,      ///< behind a series that shows the same more clearly
    reference,  ///< a limit or an ideal that nobody measured point by point: always a line, in grey
};

/// Points of one quantity, in order of x. Series differ in colour, dash pattern and marker, so that no reader needs the
/// colour. Few points are not joined: a line would claim what lies between them.
struct Series {
    std::string name;
    std::vector<double> x;
    std::vector<double> y;
    std::vector<double> low;  ///< of an interval around y, NaN where there is none; or empty
    std::vector<double> high;
    bool markers = true;
    Stroke stroke = Stroke::plain;
    std::optional<std::size_t> style = {};  ///< of colour, dashes and marker; else its place in the chart
};

struct LineChart {
    std::string title;
    Axis x;
    Axis y;
    std::vector<Series> series;
};

/// Horizontal bars, each stacked from one value per part.
struct BarChart {
    std::string title;
    Axis x;
    std::vector<std::string> bars;
    std::vector<std::string> parts;
    std::vector<std::vector<double>> values;  ///< [bars][parts]
    bool last_is_rest = false;                ///< the last part is what the others leave
};

/// Values of cells as lightness of one hue, from white.
struct HeatMap {
    std::string title;
    std::string rows_label;
    std::string columns_label;
    std::string unit;
    std::vector<std::string> rows;
    std::vector<std::string> columns;
    std::vector<std::vector<double>> values;  ///< [rows][columns]
};

/// An <svg> element, well-formed XML.
[[nodiscard]] std::string to_svg(const LineChart& chart);
[[nodiscard]] std::string to_svg(const BarChart& chart);
[[nodiscard]] std::string to_svg(const HeatMap& chart);

/// `text` inside of an XML element or attribute.
[[nodiscard]] std::string escape_xml(const std::string& text);
/// A number for people, with four significant digits.
[[nodiscard]] std::string readable(double value);
/// A whole number for people: all its digits, unless they are too many to be one.
[[nodiscard]] std::string readable_count(double value);

}  // namespace moesaic::report
