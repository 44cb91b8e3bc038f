// Judging the keys of an object that another program wrote: by lists of what is known, never by how a name sounds.
#pragma once

#include <nlohmann/json.hpp>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::io {

/// What a reader knows about keys. Each key stands in one of the lists; one of `only` may have a default, too.
struct KnownKeys {
    std::vector<std::string_view> required;              ///< read; the object must have them where they are needed
    nlohmann::json defaults = nlohmann::json::object();  ///< read; values where the object does not have them
    /// Not read, because only this value is computed. Null stands for all ways of switching a feature off: null, false,
    /// zero, an empty text, list or object.
    nlohmann::json only = nlohmann::json::object();
    std::vector<std::string_view> ignored;  ///< without influence on what is computed

    /// True if the key is in one of the lists.
    [[nodiscard]] bool contains(const std::string& key) const;
};

/// Judges every key of `object` by the first of the tables that has it. Throws a usage error for a value that is not
/// the only one that is computed; null is as good as a missing key. Returns the keys that no table has, but for those
/// of value null and those that begin with "_", which are notes of a program to itself.
[[nodiscard]] std::vector<std::string> judge_keys(const nlohmann::json& object,
                                                  std::span<const KnownKeys* const> tables, const std::string& source);

/// One line that names such keys; empty if there are none.
[[nodiscard]] std::string describe_unknown_keys(const std::vector<std::string>& keys, const std::string& source);

}  // namespace moesaic::io
