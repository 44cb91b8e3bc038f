#include "report/scale.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::report {
namespace {

constexpr double largest = 1e300;
constexpr double smallest = 1e-300;
constexpr double nearly = 1e-9;  // relative: what rounding does to round numbers
constexpr int most_log_ticks = 9;

/// The k-th of 1, 2, 5, 10, 20, ...; k may be negative.
double round_number(int k) {
    const int decade = k >= 0 ? k / 3 : -((2 - k) / 3);
    constexpr std::array digits = {1.0, 2.0, 5.0};
    return digits[static_cast<std::size_t>(k - 3 * decade)] * std::pow(10.0, decade);
}

/// The greatest that is not above `value`.
int round_number_below(double value) {
    int k = 3 * static_cast<int>(std::floor(std::log10(value)));
    for (int next = 1; next <= 3 && round_number(k + 1) <= value * (1 + nearly); ++next) {
        ++k;
    }
    return k;
}

/// Every how many of `count` intervals between ticks are left, so that few enough remain.
int stride_of(int count) {
    return std::max(1, (count + most_log_ticks - 2) / (most_log_ticks - 1));
}

/// 2^exponent bytes.
std::string bytes_label(int exponent) {
    constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    const int unit = exponent / 10;
    if (exponent < 0 || unit >= static_cast<int>(units.size())) {
        return readable(std::exp2(exponent)) + " B";
    }
    return fmt::format("{} {}", 1 << exponent % 10, units[static_cast<std::size_t>(unit)]);
}

/// A multiple of `step`, with the digits that tell it from the next one.
std::string linear_label(double value, double step, double greatest) {
    if (value == 0) {
        return "0";
    }
    constexpr int most_decimals = 6;
    const int last_digit = static_cast<int>(std::floor(std::log10(step) + nearly));
    if (greatest < 1e6 && last_digit >= -most_decimals) {
        return fmt::format("{:.{}f}", value, std::max(0, -last_digit));
    }
    const int first_digit = static_cast<int>(std::floor(std::log10(greatest) + nearly));
    return fmt::format("{:.{}g}", value, std::max(1, first_digit - last_digit + 1));
}

}  // namespace

bool can_show(const Axis& axis, double value) {
    return std::isfinite(value) && std::abs(value) <= largest && (!axis.logarithmic || value >= smallest);
}

Scale::Scale(const Axis& axis, double low, double high, double from, double to, Ends ends)
    : logarithmic_(axis.logarithmic), from_(from), to_(to) {
    if (!logarithmic_) {
        set_linear(axis.from_zero ? std::min(low, 0.0) : low, high, axis.whole, ends);
    } else if (axis.bytes) {
        set_binary(low, high);
    } else {
        set_decimal(low, high);
    }
}

void Scale::set_linear(double low, double high, bool whole, Ends ends) {
    constexpr double as_one = 1e-6;  // of their size
    double greatest = std::max(std::abs(low), std::abs(high));
    if (greatest < smallest) {
        low = 0;
        high = 1;
        greatest = 1;
    } else if (high - low <= as_one * greatest) {
        const double middle = low;
        low = middle - greatest / 4;
        high = middle + greatest / 4;
    }
    const double raw = (high - low) / 5;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    const double round = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    const double step = whole ? std::max(1.0, round) : round;
    const double first = std::floor(low / step + nearly);
    const auto last =
        static_cast<std::int64_t>(ends == Ends::exact ? std::floor(high / step + nearly)
                                                      : std::max(std::ceil(high / step - nearly), first + 1.0));
    low_ = first * step;
    high_ = ends == Ends::round ? static_cast<double>(last) * step : high;
    for (auto k = static_cast<std::int64_t>(first); k <= last; ++k) {
        const double value = static_cast<double>(k) * step;
        ticks_.push_back({value, linear_label(value, step, greatest)});
    }
}

void Scale::set_decimal(double low, double high) {
    const int first = round_number_below(low);
    int last = round_number_below(high);
    last += round_number(last) < high * (1 - nearly) ? 1 : 0;
    last = std::max(last, first + 1);
    low_ = std::log10(round_number(first));
    high_ = std::log10(round_number(last));
    constexpr int two_decades = 6;
    const bool all = last - first <= two_decades;
    const int stride = all ? 1 : 3 * stride_of((last - first) / 3);
    const int from_decade = all ? first : 3 * static_cast<int>(std::ceil(low_ - nearly));
    for (int k = from_decade; k <= last; k += stride) {
        ticks_.push_back({round_number(k), readable(round_number(k))});
    }
}

void Scale::set_binary(double low, double high) {
    const int first = static_cast<int>(std::floor(std::log2(low) + nearly));
    const int last = std::max(first + 1, static_cast<int>(std::ceil(std::log2(high) - nearly)));
    low_ = std::log10(2.0) * first;
    high_ = std::log10(2.0) * last;
    for (int k = first; k <= last; k += stride_of(last - first)) {
        ticks_.push_back({std::exp2(k), bytes_label(k)});
    }
}

double Scale::at(double value) const {
    const double v = logarithmic_ ? std::log10(value) : value;
    return from_ + (to_ - from_) * ((v - low_) / (high_ - low_));
}

}  // namespace moesaic::report
