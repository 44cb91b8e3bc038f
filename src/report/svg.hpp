// What charts are drawn with: an <svg> element that grows, axes, and colours that all readers can tell apart.
#pragma once

#include "report/chart.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace moesaic::report {

inline constexpr double chart_width = 760;
inline constexpr double legend_line = 18;

/// Of the i-th series or part; they repeat.
[[nodiscard]] const char* colour(std::size_t i);
/// Style of text on that colour.
[[nodiscard]] std::string text_on(std::size_t i);
/// Style of a line in that colour, with a dash pattern of its own.
[[nodiscard]] std::string line_style(std::size_t i);
inline constexpr const char* frame_style = "fill=\"none\" stroke=\"#555\" stroke-width=\"1\"";

/// From values to places along one axis, with the values to be named.
class Scale {
public:
    /// Of values from `low` to `high`, to coordinates from `from` to `to`. A logarithmic axis ends with 1, 2 or 5
    /// times a power of ten.
    Scale(const Axis& axis, double low, double high, double from, double to);

    [[nodiscard]] double at(double value) const;
    [[nodiscard]] const std::vector<double>& ticks() const { return ticks_; }

private:
    bool logarithmic_;
    double from_;
    double to_;
    double low_ = 0;
    double high_ = 1;
    std::vector<double> ticks_;
};

/// Collects elements; coordinates are those of the viewBox.
class Drawing {
public:
    Drawing(const std::string& title, double width, double height);

    void line(double x1, double y1, double x2, double y2, const std::string& style);
    void rectangle(double x, double y, double w, double h, const std::string& style, const std::string& tip = "");
    void text(double x, double y, const std::string& content, const std::string& style = "");
    void path(const std::string& points, const std::string& style);
    void area(const std::string& points, const std::string& style);
    /// Circle, square, triangle and diamond in turn.
    void marker(double x, double y, std::size_t kind);
    [[nodiscard]] std::string finish() const { return text_ + "</svg>\n"; }

private:
    std::string text_;
};

/// Where the axes are.
struct Frame {
    double left;
    double top;
    double right;
    double bottom;
};

void draw_x_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale);
void draw_y_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale);

}  // namespace moesaic::report
