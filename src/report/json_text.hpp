// JSON values as text for people: no brackets, braces or quotes.
#pragma once

#include "core/text.hpp"
#include "report/document.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moesaic::report {

/// Members of an object as "key value" after commas; ascending whole numbers as "0-3,8"; other elements of an array
/// after commas, or after semicolons where they have commas themselves.
template <class Json>
[[nodiscard]] std::string plain_text(const Json& value) {
    if (value.is_string()) {
        return value.template get<std::string>();
    }
    if (!value.is_structured()) {
        return value.is_null() ? "unknown" : value.dump();
    }
    constexpr auto is_number = [](const Json& element) { return element.is_number_integer(); };
    if (value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), is_number) &&
        std::is_sorted(value.begin(), value.end())) {
        return core::ranges(value.template get<std::vector<int>>());
    }
    const bool has_structure =
        std::any_of(value.begin(), value.end(), [](const Json& element) { return element.is_structured(); });
    std::string text;
    for (const auto& [key, member] : value.items()) {
        text += text.empty() ? "" : value.is_array() && has_structure ? "; " : ", ";
        text += (value.is_array() ? "" : key + " ") + plain_text(member);
    }
    return text.empty() ? "none" : text;
}

/// Adds a row for every member of nested objects, as "cpu.model" and text.
template <class Json>
void add_flat(const Json& value, const std::string& key, Table& table) {
    if (value.is_object()) {
        for (const auto& [name, member] : value.items()) {
            add_flat(member, key.empty() ? name : key + "." + name, table);
        }
    } else {
        table.rows.push_back({key, plain_text(value)});
    }
}

}  // namespace moesaic::report
