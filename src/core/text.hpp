// Lists and sizes as text, and text from elsewhere as part of a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {

/// What stands between commas; one empty text if there is nothing.
[[nodiscard]] std::vector<std::string> split(const std::string& text);

/// "0-3,8" for {0, 1, 2, 3, 8}.
[[nodiscard]] std::string ranges(std::span<const int> ascending);

/// A whole number, of bytes or of anything, that may be written with K, M, G or T for powers of 1024, and B or iB after
/// those: "4096", "4K", "1.5GiB". Nothing if the text is none.
[[nodiscard]] std::optional<std::int64_t> parse_size(std::string_view text);

/// "5.7 M": a count of anything with k, M, B or T.
[[nodiscard]] std::string short_count(double count);

/// "0.123", "12.3", "12345": no more digits than an estimate has, but never a power of ten.
[[nodiscard]] std::string three_digits(double value);

/// "a, b, c and 7 more": the first names of a list, which may be long.
[[nodiscard]] std::string joined(std::span<const std::string> names, std::size_t most = 8);

/// The candidate with the smallest edit distance to `word`, or an empty string if none is near.
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

/// Whether the text is UTF-8 (RFC 3629).
[[nodiscard]] bool is_utf8(std::string_view text);

/// Text from elsewhere, fit for a message: control characters, and bytes that are no UTF-8, are \xNN, so that it stays
/// on its line and can't command a terminal. Of more than `longest` characters it has the first ones and "... (N
/// characters)".
[[nodiscard]] std::string printable(std::string_view text, std::size_t longest = 200);

}  // namespace moesaic::core
