// Numbers of things in sentences.
#pragma once

#include <string>

namespace moesaic::core {

/// "1 rank", "2 ranks".
template <class Integer>
[[nodiscard]] std::string counted(Integer n, const std::string& thing) {
    return std::to_string(n) + ' ' + thing + (n == 1 ? "" : "s");
}

}  // namespace moesaic::core
