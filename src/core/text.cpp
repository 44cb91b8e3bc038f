#include "core/text.hpp"

#include <fmt/format.h>

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

}  // namespace moesaic::core
