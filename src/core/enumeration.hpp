// Enumerations as text. Beside an enumeration whose values count from 0 stands the one table of their names, in the
// same order; options, files and messages go through it:
//     enum class Direction : std::uint8_t { forward, backward };
//     constexpr auto names_of(Direction) { return std::to_array<std::string_view>({"forward", "backward"}); }
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>

namespace moesaic::core {

/// An enumeration with a table of names.
template <class E>
concept NamedEnumeration = std::is_enum_v<E> && requires(E value) {
    { names_of(value)[0] } -> std::convertible_to<std::string_view>;
};

template <NamedEnumeration E>
[[nodiscard]] constexpr std::string_view name_of(E value) {
    return names_of(value)[static_cast<std::size_t>(value)];
}

/// All values in order.
template <NamedEnumeration E>
[[nodiscard]] constexpr auto values_of() {
    std::array<E, names_of(E{}).size()> values{};
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<E>(i);
    }
    return values;
}

/// The place of `text` among `names`; errors as those of `parse_name`.
[[nodiscard]] std::size_t find_name(std::string_view text, std::span<const std::string_view> names,
                                    std::string_view key, std::string_view source);

/// The value that `text` names. Otherwise throws a usage error with `key`, whose value it is, `source`, where that
/// stands ("on the command line", or a file), all names and the nearest one.
template <NamedEnumeration E>
[[nodiscard]] E parse_name(std::string_view text, std::string_view key, std::string_view source) {
    const auto names = names_of(E{});
    return static_cast<E>(find_name(text, names, key, source));
}

}  // namespace moesaic::core
