// JSON from untrusted files: bounded parsing, typed access with errors that name file and key, and JSON lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/matrix.hpp"

namespace moesaic::io {

/// What a document may cost; beyond a limit it is refused with ExitCode::corrupt_input.
struct JsonLimits {
    std::size_t bytes = std::size_t{256} << 20U;
    std::size_t depth = 64;                       ///< nested arrays and objects
    std::size_t values = std::size_t{64} << 20U;  ///< values of all kinds; each needs 16 bytes or more of memory
};

/// Parses one JSON document (RFC 8259). Syntax errors, duplicate keys and exceeded limits throw core::Error with
/// ExitCode::corrupt_input and "SOURCE:LINE:COLUMN: ..."; the first line of `text` has the number `first_line`.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits = {},
                                        std::size_t first_line = 1);

/// Reads and parses a file. A missing or unreadable file throws with ExitCode::usage.
[[nodiscard]] nlohmann::json read_json(const std::filesystem::path& file, const JsonLimits& limits = {});

/// Keys of the object that is member `member` of the document, in the order of the text, which `json` does not keep.
/// The text was parsed before.
[[nodiscard]] std::vector<std::string> keys_in_order(std::string_view text, const std::string& member);

/// Longest line that `for_each_json_line` accepts, in bytes.
inline constexpr std::size_t max_json_line_bytes = std::size_t{64} << 20U;

/// Calls `use(value, line)` for every line of a JSON Lines file that is not blank; lines count from 1. Errors name
/// FILE:LINE:COLUMN. The file is streamed, so it may be larger than memory.
void for_each_json_line(const std::filesystem::path& file,
                        const std::function<void(const nlohmann::json& value, std::size_t line)>& use);

namespace detail {
/// The member `key`, or null if it is missing or JSON null. Throws if `object` is no object.
[[nodiscard]] const nlohmann::json* find_member(const nlohmann::json& object, const std::string& key,
                                                const std::string& source);
[[noreturn]] void fail_missing(const std::string& key, const std::string& source);
[[noreturn]] void fail_type(const nlohmann::json& value, std::string_view expected, const std::string& key,
                            const std::string& source);
[[nodiscard]] std::int64_t to_integer(const nlohmann::json& value, std::int64_t minimum, std::int64_t maximum,
                                      const std::string& key, const std::string& source);
[[nodiscard]] double to_number(const nlohmann::json& value, double limit, const std::string& key,
                               const std::string& source);

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
[[nodiscard]] T convert(const nlohmann::json& value, const std::string& key, const std::string& source) {
    if constexpr (std::is_same_v<T, nlohmann::json>) {
        return value;
    } else if constexpr (std::is_same_v<T, bool>) {
        if (!value.is_boolean()) {
            fail_type(value, "true or false", key, source);
        }
        return value.get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
        constexpr auto minimum = static_cast<std::int64_t>(std::numeric_limits<T>::min());
        constexpr auto limit = std::numeric_limits<std::int64_t>::max();
        constexpr auto maximum = std::cmp_greater(std::numeric_limits<T>::max(), limit)
                                     ? limit
                                     : static_cast<std::int64_t>(std::numeric_limits<T>::max());
        return static_cast<T>(to_integer(value, minimum, maximum, key, source));
    } else if constexpr (std::is_floating_point_v<T>) {
        return static_cast<T>(to_number(value, static_cast<double>(std::numeric_limits<T>::max()), key, source));
    } else if constexpr (IsVector<T>::value) {
        if (!value.is_array()) {
            fail_type(value, "an array", key, source);
        }
        T elements;
        elements.reserve(value.size());
        for (std::size_t i = 0; i < value.size(); ++i) {
            elements.push_back(convert<typename T::value_type>(value[i], key + '[' + std::to_string(i) + ']', source));
        }
        return elements;
    } else {
        static_assert(std::is_same_v<T, std::string>, "bool, integers, floating point, std::string, json or vectors");
        if (!value.is_string()) {
            fail_type(value, "a string", key, source);
        }
        return value.get<std::string>();
    }
}
}  // namespace detail

/// Member `key` of the object that was read from `source` (a file name). T is bool, an integer, float, double,
/// std::string, nlohmann::json or a std::vector of those. A missing key, null, a wrong type or an integer outside of T
/// throws with ExitCode::corrupt_input and names source and key.
template <class T>
[[nodiscard]] T get(const nlohmann::json& object, const std::string& key, const std::string& source) {
    const nlohmann::json* value = detail::find_member(object, key, source);
    if (value == nullptr) {
        detail::fail_missing(key, source);
    }
    return detail::convert<T>(*value, key, source);
}

/// As `get`, but `fallback` where the key is missing or null, which configurations of transformers use alike.
template <class T>
[[nodiscard]] T get_or(const nlohmann::json& object, const std::string& key, const std::type_identity_t<T>& fallback,
                       const std::string& source) {
    const nlohmann::json* value = detail::find_member(object, key, source);
    return value == nullptr ? fallback : detail::convert<T>(*value, key, source);
}

/// Largest size or count that `get_size` accepts unless told otherwise: dimensions fit into 32 bits.
inline constexpr core::index_t max_json_size = std::numeric_limits<std::int32_t>::max();

/// A dimension or count in [minimum, maximum]; anything else throws as `get` does.
[[nodiscard]] core::index_t get_size(const nlohmann::json& object, const std::string& key, const std::string& source,
                                     core::index_t minimum = 1, core::index_t maximum = max_json_size);
/// As `get_size`, but `fallback` where the key is missing or null.
[[nodiscard]] core::index_t get_size_or(const nlohmann::json& object, const std::string& key, core::index_t fallback,
                                        const std::string& source, core::index_t minimum = 1,
                                        core::index_t maximum = max_json_size);

}  // namespace moesaic::io
