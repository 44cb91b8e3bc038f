#include "core/trace_time.hpp"

#include <fmt/format.h>

#include <string_view>

namespace moesaic::core::trace {
namespace {

constexpr int bits = 11;
constexpr std::int64_t units_per_us = std::int64_t{1} << bits;
constexpr std::int64_t decimals_of_unit = 48828125;  // 5^11: 2^-11 is this many times 10^-11
constexpr std::int64_t all_decimals = 100'000'000'000;

}  // namespace

TraceTime TraceTime::of_ns(std::int64_t ns) {
    constexpr std::int64_t ns_per_us = 1000;
    const std::int64_t rest = ns % ns_per_us;  // with the sign of ns, as the quotient
    const std::int64_t half = rest < 0 ? -ns_per_us / 2 : ns_per_us / 2;
    return TraceTime(ns / ns_per_us * units_per_us + (rest * units_per_us + half) / ns_per_us);
}

void TraceTime::append_to(std::string& out) const {
    const std::int64_t magnitude = units_ < 0 ? -units_ : units_;
    out += units_ < 0 ? "-" : "";
    const fmt::format_int whole(magnitude / units_per_us);
    out.append(whole.data(), whole.size());
    if (const std::int64_t fraction = magnitude % units_per_us; fraction != 0) {
        const fmt::format_int digits(all_decimals + fraction * decimals_of_unit);  // a one, then eleven decimals
        const std::string_view decimals = std::string_view(digits.data(), digits.size()).substr(1);
        out += '.';
        out += decimals.substr(0, decimals.find_last_not_of('0') + 1);
    }
}

}  // namespace moesaic::core::trace
