// Axes: from values to places, with round values that are named.
#pragma once

#include "report/chart.hpp"

#include <string>
#include <vector>

namespace moesaic::report {

/// Whether an axis has a place for the value: finite, not so large that a difference overflows, and above zero where
/// the axis is logarithmic.
[[nodiscard]] bool can_show(const Axis& axis, double value);

/// From values to coordinates along one axis.
class Scale {
public:
    struct Tick {
        double value;
        std::string label;
    };
    enum class Ends : std::uint8_t {
        round,  ///< the axis ends with a tick
        exact,  ///< the axis ends with the greatest value; linear axes from zero only
    };

    /// Of values from `low` to `high`, which the axis can show, to coordinates from `from` to `to`. A linear axis has
    /// ticks at multiples of 1, 2 or 5 times a power of ten; a logarithmic one ends with 1, 2 or 5 times a power of
    /// ten, or with a power of two. Values so close together that their names would be too long count as one.
    Scale(const Axis& axis, double low, double high, double from, double to, Ends ends = Ends::round);

    [[nodiscard]] double at(double value) const;
    [[nodiscard]] const std::vector<Tick>& ticks() const { return ticks_; }

private:
    void set_linear(double low, double high, bool whole, Ends ends);
    void set_decimal(double low, double high);
    void set_binary(double low, double high);

    bool logarithmic_;
    double from_;
    double to_;
    double low_ = 0;  ///< or its logarithm
    double high_ = 1;
    std::vector<Tick> ticks_;
};

}  // namespace moesaic::report
