#include "model/adapters/module_patterns.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <algorithm>
#include <charconv>

namespace moesaic::model {

using core::ExitCode;

void ModulePatterns::add(const std::string& source, const std::string& pattern, double value) {
    constexpr std::size_t longest = 256;
    core::require(pattern.size() <= longest, ExitCode::usage,
                  "{}: a pattern has {} characters (at most {} are taken); shorten it", source, pattern.size(),
                  longest);
    try {
        entries_.push_back({std::regex("(.*\\.)?(" + pattern + ")"), value});
    } catch (const std::regex_error& error) {
        core::fail(ExitCode::usage, "{}: \"{}\" is no regular expression ({}); correct it", source, pattern,
                   error.what());
    }
}

ModulePatterns ModulePatterns::parse(const std::string& source, const std::string& text) {
    ModulePatterns patterns;
    if (text.empty()) {
        return patterns;
    }
    patterns.text_ = text;
    for (const std::string& item : core::split(text)) {
        const auto equals = item.rfind('=');
        double value = 0;
        const char* end = item.data() + item.size();
        const bool good = equals != std::string::npos && equals > 0 &&
                          std::from_chars(item.data() + equals + 1, end, value).ptr == end && value > 0;
        core::require(good, ExitCode::usage,
                      "{}: \"{}\" is not PATTERN=VALUE with a positive number; write for example q_proj=16,down_proj=4",
                      source, item);
        patterns.add(source, item.substr(0, equals), value);
    }
    return patterns;
}

double ModulePatterns::value_of(const std::string& module, double otherwise) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return std::regex_match(module, entry.expression); });
    return found == entries_.end() ? otherwise : found->value;
}

}  // namespace moesaic::model
