#include "core/text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace moesaic::core {
namespace {

/// Bytes of the character at the beginning of the text, or 0 if there is none in UTF-8.
std::size_t character_bytes(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
    const std::uint32_t first = byte(0);
    const std::size_t bytes = first < 0x80          ? 1
                              : first >> 5U == 0x6  ? 2
                              : first >> 4U == 0xe  ? 3
                              : first >> 3U == 0x1e ? 4
                                                    : 0;
    if (bytes < 2 || bytes > text.size()) {
        return bytes < 2 ? bytes : 0;
    }
    std::uint32_t code = first & (0x7fU >> bytes);
    for (std::size_t i = 1; i < bytes; ++i) {
        if (byte(i) >> 6U != 2) {
            return 0;
        }
        code = code << 6U | (byte(i) & 0x3fU);
    }
    const bool is_shortest = code >= (bytes == 2 ? 0x80U : bytes == 3 ? 0x800U : 0x10000U);
    const bool is_surrogate = code >= 0xd800 && code < 0xe000;
    return is_shortest && !is_surrogate && code <= 0x10ffff ? bytes : 0;
}

/// Of ASCII, and those of ISO 8859, which are two bytes in UTF-8.
bool is_control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0);
}

}  // namespace

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

std::string short_count(double count) {
    struct Unit {
        double size;
        const char* suffix;
    };
    constexpr std::array units = {Unit{1e12, " T"}, Unit{1e9, " B"}, Unit{1e6, " M"}, Unit{1e3, " k"}};
    const auto* unit = std::find_if(units.begin(), units.end(), [&](const Unit& each) { return count >= each.size; });
    return unit == units.end() ? fmt::format("{:.0f}", count)
                               : fmt::format("{:.1f}{}", count / unit->size, unit->suffix);
}

std::string three_digits(double value) {
    return value < 1000 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

std::string joined(std::span<const std::string> names, std::size_t most) {
    const std::size_t shown = std::min(names.size(), most);
    return fmt::format("{}{}", fmt::join(names.first(shown), ", "),
                       names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : "");
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t bytes = character_bytes(text);
        if (bytes == 0) {
            return false;
        }
        text.remove_prefix(bytes);
    }
    return true;
}

std::string printable(std::string_view text, std::size_t longest) {
    std::string result;
    std::size_t characters = 0;
    for (; !text.empty(); ++characters) {
        const std::size_t valid = character_bytes(text);
        const std::string_view character = text.substr(0, std::max<std::size_t>(valid, 1));
        text.remove_prefix(character.size());
        if (characters >= longest) {
            continue;  // counted only
        }
        if (valid > 0 && !is_control(character)) {
            result += character;
            continue;
        }
        for (const char byte : character) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
        }
    }
    return characters > longest ? fmt::format("{}... ({} characters)", result, characters) : result;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
    const auto distance = [](std::string_view a, std::string_view b) {
        std::vector<std::size_t> row(b.size() + 1);
        std::iota(row.begin(), row.end(), std::size_t{0});
        for (std::size_t i = 1; i <= a.size(); ++i) {
            std::size_t diagonal = row[0];
            row[0] = i;
            for (std::size_t j = 1; j <= b.size(); ++j) {
                const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
            }
        }
        return row.back();
    };
    std::string best;
    std::size_t best_distance = word.size() / 3 + 2;  // more would be guessing
    for (const std::string& candidate : candidates) {
        const std::size_t d = distance(word, candidate);
        if (d < best_distance) {
            best = candidate;
            best_distance = d;
        }
    }
    return best;
}

}  // namespace moesaic::core
