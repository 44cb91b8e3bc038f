#include "core/text.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace moesaic::core {

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts(1);
    for (const char character : text) {
        if (character == ',') {
            parts.emplace_back();
        } else {
            parts.back() += character;
        }
    }
    return parts;
}

std::string ranges(std::span<const int> ascending) {
    std::string text;
    for (std::size_t begin = 0; begin < ascending.size();) {
        std::size_t end = begin + 1;
        while (end < ascending.size() && ascending[end] == ascending[end - 1] + 1) {
            ++end;
        }
        text += fmt::format("{}{}", text.empty() ? "" : ",", ascending[begin]);
        text += end - begin > 1 ? fmt::format("-{}", ascending[end - 1]) : "";
        begin = end;
    }
    return text;
}

std::optional<std::int64_t> parse_size(std::string_view text) {
    constexpr double most = 1e15;  // whole numbers are exact in double precision up to here
    double value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
    const std::string_view suffix(stop, static_cast<std::size_t>(end - stop));
    if (error != std::errc() || !std::isfinite(value)) {
        return std::nullopt;
    }
    double factor = 1;
    bool known = suffix.empty();
    for (const char letter : {'K', 'M', 'G', 'T'}) {
        factor *= 1024;
        if (!suffix.empty() && suffix[0] == letter) {
            known = suffix.size() == 1 || suffix.substr(1) == "B" || suffix.substr(1) == "iB";
            break;
        }
    }
    const double size = value * (suffix.empty() ? 1 : factor);
    if (!known || std::abs(size) > most || size != std::floor(size)) {
        return std::nullopt;
    }
    return static_cast<std::int64_t>(size);
}

}  // namespace moesaic::core
