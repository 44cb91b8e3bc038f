#include "io/known_keys.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <algorithm>

namespace moesaic::io {
namespace {

using nlohmann::json;

bool says_off(const json& value) {
    return value.is_null() || value == false || value == 0 ||
           (value.is_string() && value.get_ref<const std::string&>().empty()) ||
           (value.is_structured() && value.empty());
}

bool is_listed(const std::vector<std::string_view>& keys, const std::string& key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
}

constexpr std::size_t most_listed = 20;
constexpr std::size_t longest_line = 2000;

/// In a message.
std::string shown(const json& value) {
    constexpr std::size_t longest = 80;
    return core::printable(value.dump(-1, ' ', false, json::error_handler_t::replace), longest);
}

}  // namespace

bool KnownKeys::contains(const std::string& key) const {
    return defaults.contains(key) || only.contains(key) || is_listed(required, key) || is_listed(ignored, key);
}

std::vector<std::string> judge_keys(const json& object, std::span<const KnownKeys* const> tables,
                                    const std::string& source) {
    std::vector<std::string> unknown;
    std::vector<std::string> refused;
    for (const auto& [key, value] : object.items()) {
        const auto table = std::find_if(tables.begin(), tables.end(),
                                        [&key = key](const KnownKeys* each) { return each->contains(key); });
        if (value.is_null() || key.starts_with('_')) {
            continue;
        }
        if (table == tables.end()) {
            unknown.push_back(key);
        } else if (const auto only = (*table)->only.find(key); only != (*table)->only.end()) {
            const bool is_computed = only->is_null() ? says_off(value) : value == *only;
            if (!is_computed) {
                refused.push_back(fmt::format("{} = {}{}", key, shown(value),
                                              only->is_null() ? "" : fmt::format(" (only {} is)", shown(*only))));
            }
        }
    }
    core::require(refused.empty(), core::ExitCode::usage,
                  "{}: not supported: {} (this changes what is computed); use a model or an adapter without it", source,
                  core::joined(refused, most_listed));
    return unknown;
}

std::string describe_unknown_keys(const std::vector<std::string>& keys, const std::string& source) {
    return keys.empty() ? std::string()
                        : core::printable(fmt::format("warning: {}: {} no effect: {}", source,
                                                      keys.size() > 1 ? "these keys are not known and have"
                                                                      : "a key is not known and has",
                                                      core::joined(keys, most_listed)),
                                          longest_line);
}

}  // namespace moesaic::io
