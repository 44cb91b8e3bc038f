// Values of options: as text, from text, and checks of them.
#include "core/error.hpp"
#include "core/option_sources.hpp"
#include "core/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <utility>

namespace moesaic::core {
namespace {

std::string to_text(bool value) {
    return value ? "true" : "false";
}
std::string to_text(std::int64_t value) {
    return std::to_string(value);
}
std::string to_text(double value) {
    return fmt::format("{}", value);
}
std::string to_text(const std::string& value) {
    return value;
}
std::string to_text(const Duration& value) {
    return value.text;
}

bool from_text(const std::string& text, bool& value) {
    if (text == "true" || text == "yes" || text == "on" || text == "1") {
        value = true;
        return true;
    }
    if (text == "false" || text == "no" || text == "off" || text == "0") {
        value = false;
        return true;
    }
    return false;
}

template <class Number>
bool number_from_text(const std::string& text, Number& value) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end;
}

bool from_text(const std::string& text, std::int64_t& value) {
    return number_from_text(text, value);
}
bool from_text(const std::string& text, double& value) {
    return number_from_text(text, value) && std::isfinite(value);
}
bool from_text(const std::string& text, std::string& value) {
    value = text;
    return true;
}

/// Days before a dash, then at most hours, minutes and seconds.
bool from_text(const std::string& text, Duration& value) {
    const auto dash = text.find('-');
    double days = 0;
    double seconds = 0;
    const auto is_amount = [](const std::string& digits, double& amount) {
        return from_text(digits, amount) && amount >= 0;
    };
    if (dash != std::string::npos && !is_amount(text.substr(0, dash), days)) {
        return false;
    }
    int fields = 0;
    std::istringstream clock(dash == std::string::npos ? text : text.substr(dash + 1));
    for (std::string field; std::getline(clock, field, ':'); ++fields) {
        double amount = 0;
        if (!is_amount(field, amount)) {
            return false;
        }
        seconds = seconds * 60 + amount;
    }
    value = {text, seconds + days * 86400};
    return text.empty() || (fields >= 1 && fields <= 3 && value.seconds > 0);
}

template <class T>
constexpr std::string_view type_name = "text";
template <>
constexpr std::string_view type_name<bool> = "true or false";
template <>
constexpr std::string_view type_name<std::int64_t> = "an integer";
template <>
constexpr std::string_view type_name<double> = "a number";
template <>
constexpr std::string_view type_name<Duration> = "a duration";

}  // namespace

template <class T>
OptionSet::Declared OptionSet::add(const std::string& key, T& target, const std::string& help, Check<T> check) {
    return add_text(
        key, help, [&target] { return to_text(target); },
        [&target, check = std::move(check)](const std::string& text, const std::string& full_key,
                                            const std::string& source) {
            T value{};
            require(from_text(text, value), ExitCode::usage, "{} = {} is not {} ({}); correct the value", full_key,
                    text, type_name<T>, source);
            if (check) {
                const std::string problem = check(value);
                require(problem.empty(), ExitCode::usage, "{} = {} {} ({}); correct the value", full_key, text, problem,
                        source);
            }
            target = std::move(value);
        });
}

template OptionSet::Declared OptionSet::add(const std::string&, bool&, const std::string&, Check<bool>);
template OptionSet::Declared OptionSet::add(const std::string&, std::int64_t&, const std::string&, Check<std::int64_t>);
template OptionSet::Declared OptionSet::add(const std::string&, double&, const std::string&, Check<double>);
template OptionSet::Declared OptionSet::add(const std::string&, std::string&, const std::string&, Check<std::string>);
template OptionSet::Declared OptionSet::add(const std::string&, Duration&, const std::string&, Check<Duration>);

OptionSet::Declared OptionSet::add_auto(const std::string& key, std::int64_t& target, std::int64_t most,
                                        const std::string& help) {
    return add_text(
        key, help, [&target] { return target == 0 ? "auto" : to_text(target); },
        [&target, most](const std::string& text, const std::string& full_key, const std::string& source) {
            std::int64_t value = 0;
            require(text == "auto" || (from_text(text, value) && value >= 1 && value <= most), ExitCode::usage,
                    "{} = {} must be auto or an integer between 1 and {} ({}); correct the value", full_key, text, most,
                    source);
            target = value;
        });
}

OptionSet::Declared OptionSet::add_path(const std::string& key, std::string& target, const std::string& help) {
    return add_text(
        key, help, [&target] { return target; },
        [&target](const std::string& text, const std::string& full_key, const std::string& source) {
            target = expand_path(text, full_key, source);
        });
}

OptionSet::Declared OptionSet::add_paths(const std::string& key, std::string& target, const std::string& help) {
    return add_text(
        key, help, [&target] { return target; },
        [&target](const std::string& text, const std::string& full_key, const std::string& source) {
            std::vector<std::string> paths = split(text);
            std::transform(paths.begin(), paths.end(), paths.begin(),
                           [&](const std::string& path) { return expand_path(path, full_key, source); });
            target = fmt::format("{}", fmt::join(paths, ","));
        });
}

OptionSet::Check<std::int64_t> at_least(std::int64_t minimum) {
    return [minimum](const std::int64_t& value) {
        return value >= minimum ? std::string() : fmt::format("must be at least {}", minimum);
    };
}

OptionSet::Check<std::int64_t> integer_within(std::int64_t minimum, std::int64_t maximum) {
    return [minimum, maximum](const std::int64_t& value) {
        return value >= minimum && value <= maximum ? std::string()
                                                    : fmt::format("must be between {} and {}", minimum, maximum);
    };
}

OptionSet::Check<double> positive() {
    return [](const double& value) { return value > 0 ? std::string() : std::string("must be positive"); };
}

OptionSet::Check<double> within(double minimum, double maximum) {
    return [minimum, maximum](const double& value) {
        return value >= minimum && value <= maximum ? std::string()
                                                    : fmt::format("must be between {} and {}", minimum, maximum);
    };
}

OptionSet::Check<std::string> one_of(std::vector<std::string> choices) {
    return [choices = std::move(choices)](const std::string& value) {
        if (std::find(choices.begin(), choices.end(), value) != choices.end()) {
            return std::string();
        }
        return fmt::format("must be one of {}", fmt::join(choices, ", "));
    };
}

}  // namespace moesaic::core
