// What charts are drawn with: an <svg> element that grows, axes, and colours that all readers can tell apart.
#pragma once

#include "report/chart.hpp"
#include "report/scale.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace moesaic::report {

/// Units of the viewBox; the page stretches it to its own width.
inline constexpr double chart_width = 960;
inline constexpr double font_size = 13;
inline constexpr double legend_line = 19;

/// Room that a text takes, at most.
[[nodiscard]] double width_of(const std::string& text);
/// The text, or its beginning and "..." if it has more letters.
[[nodiscard]] std::string shortened(const std::string& text, std::size_t letters);

/// Colours of bars' parts by their place, and of what is left.
inline constexpr std::size_t part_colours = 8;
inline constexpr std::size_t colour_of_rest = part_colours;
[[nodiscard]] const char* part_colour(std::size_t i);
/// Style of text on that colour.
[[nodiscard]] std::string text_on(std::size_t i);
/// Of the i-th series; they repeat, but not with the same dashes and markers.
[[nodiscard]] const char* line_colour(std::size_t i);
/// Style of a line: a dash pattern of its own in that colour, or in grey.
[[nodiscard]] std::string line_style(std::size_t i, Stroke stroke);
inline constexpr const char* frame_style = "fill=\"none\" stroke=\"#555\" stroke-width=\"1\"";

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

/// Room left of a frame for the names of the ticks and the title of the axis.
[[nodiscard]] double left_of_frame(const Scale& y);
void draw_x_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale);
void draw_y_axis(Drawing& drawing, const Frame& frame, const Axis& axis, const Scale& scale);

}  // namespace moesaic::report
