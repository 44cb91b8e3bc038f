// Charts as inline SVG: no script, no network, no identifiers that could meet those of another chart on the page.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moesaic::report {

struct Axis {
    std::string label;
    std::string unit;  ///< or empty
    bool logarithmic = false;
    bool from_zero = false;  ///< linear axes only
};

/// Points of one quantity, in order of x. Series differ in colour, dash pattern and marker, so that no reader needs the
/// colour.
struct Series {
    std::string name;
    std::vector<double> x;
    std::vector<double> y;
    std::vector<double> low;  ///< of an interval around y, or empty
    std::vector<double> high;
    bool markers = true;
    int samples = 0;  ///< behind each point, 0: one
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

}  // namespace moesaic::report
