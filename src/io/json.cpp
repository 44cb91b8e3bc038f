#include "io/json.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <iterator>
#include <utility>

#include "core/error.hpp"
#include "io/files.hpp"
#include "io/lines.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
using core::printable;
using core::require;
using nlohmann::json;

/// Iterator over a text that tells how far the parser has come, because SAX events carry no position.
class TrackingIterator {
public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    TrackingIterator(const char* current, const char*& reached) : current_(current), reached_(&reached) {}
    reference operator*() const { return *current_; }
    TrackingIterator& operator++() {
        *reached_ = ++current_;
        return *this;
    }
    TrackingIterator operator++(int) {
        TrackingIterator before = *this;
        ++*this;
        return before;
    }
    bool operator==(const TrackingIterator& other) const { return current_ == other.current_; }

private:
    const char* current_;
    const char** reached_;
};

/// SAX handler (interface of nlohmann::json) that builds the value and stops at the first violation of a limit.
class GuardedBuilder {
public:
    explicit GuardedBuilder(const JsonLimits& limits) : limits_(limits) {}

    bool null() { return add(json(nullptr)); }
    bool boolean(bool value) { return add(json(value)); }
    bool number_integer(json::number_integer_t value) { return add(json(value)); }
    bool number_unsigned(json::number_unsigned_t value) { return add(json(value)); }
    bool number_float(json::number_float_t value, const std::string& /*text*/) { return add(json(value)); }
    bool string(std::string& value) { return add(json(std::move(value))); }
    bool binary(json::binary_t& /*value*/) { return false; }
    bool start_object(std::size_t /*size*/) { return open(json::object()); }
    bool start_array(std::size_t /*size*/) { return open(json::array()); }
    bool end_object() { return close(); }
    bool end_array() { return close(); }
    bool key(std::string& name) {
        auto [member, inserted] = open_.back()->get_ref<json::object_t&>().try_emplace(name);
        if (!inserted) {
            return stop("the key '" + printable(name) + "' appears twice in one object");
        }
        slot_ = &member->second;
        return true;
    }
    template <class Exception>
    bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const Exception& error) {
        // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing ..."
        const std::string_view text = error.what();
        const std::size_t column = text.find("column ");
        const std::size_t colon = column == std::string_view::npos ? text.find(']') : text.find(": ", column);
        return stop(printable(colon == std::string_view::npos ? text : text.substr(std::min(colon + 2, text.size()))));
    }

    [[nodiscard]] json take() { return std::move(root_); }
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    bool stop(std::string problem) {
        problem_ = std::move(problem);
        return false;
    }
    bool add(json&& value) {
        if (++values_ > limits_.values) {
            return stop(fmt::format("it has more than {} values", limits_.values));
        }
        if (open_.empty()) {
            root_ = std::move(value);
            placed_ = &root_;
        } else if (open_.back()->is_array()) {
            placed_ = &open_.back()->get_ref<json::array_t&>().emplace_back(std::move(value));
        } else {
            *slot_ = std::move(value);
            placed_ = slot_;
        }
        return true;
    }
    bool open(json&& container) {
        if (open_.size() >= limits_.depth) {
            return stop(fmt::format("arrays and objects are nested more than {} deep", limits_.depth));
        }
        if (!add(std::move(container))) {
            return false;
        }
        open_.push_back(placed_);
        return true;
    }
    bool close() {
        open_.pop_back();
        return true;
    }

    JsonLimits limits_;
    json root_;
    std::vector<json*> open_;  ///< containers around the current position; only the innermost one grows
    json* slot_ = nullptr;     ///< member of the innermost object that waits for its value
    json* placed_ = nullptr;   ///< value that was added last
    std::size_t values_ = 0;
    std::string problem_;
};

/// Throws for a problem at the last character of `text`, the part of the document that was looked at.
[[noreturn]] void fail_at(std::string_view text, const std::string& source, std::size_t first_line,
                          const std::string& problem) {
    const std::string_view before = text.substr(0, text.empty() ? 0 : text.size() - 1);
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = newline == std::string_view::npos ? before.size() : before.size() - newline - 1;
    fail(ExitCode::corrupt_input, "{}:{}:{}: can't parse JSON ({}); correct it or get the file again", source,
         first_line + static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')), column + 1, problem);
}

}  // namespace

json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits, std::size_t first_line) {
    require(text.size() <= limits.bytes, ExitCode::corrupt_input,
            "{}:{}: can't parse JSON (it has {} bytes and the limit is {}); check that it is the right file", source,
            first_line, text.size(), limits.bytes);
    // The parser would take a NUL for the end of the text and ignore what follows.
    if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
        fail_at(text.substr(0, nul + 1), source, first_line, "there is a NUL byte");
    }
    const char* reached = text.data();
    GuardedBuilder builder(limits);
    if (!json::sax_parse(TrackingIterator(text.data(), reached), TrackingIterator(text.data() + text.size(), reached),
                         &builder)) {
        fail_at(text.substr(0, static_cast<std::size_t>(reached - text.data())), source, first_line, builder.problem());
    }
    return builder.take();
}

json read_json(const std::filesystem::path& file, const JsonLimits& limits) {
    return parse_json(read_file(file, limits.bytes), file.string(), limits);
}

std::vector<std::string> keys_in_order(std::string_view text, const std::string& member) {
    std::vector<std::string> keys;
    std::string outer;
    const auto note = [&](int depth, json::parse_event_t event, json& value) {
        if (event == json::parse_event_t::key && depth == 1) {
            outer = value.get<std::string>();
        } else if (event == json::parse_event_t::key && depth == 2 && outer == member) {
            keys.push_back(value.get<std::string>());
        }
        return true;
    };
    [[maybe_unused]] const json parsed = json::parse(text, note);
    return keys;
}

void for_each_json_line(const std::filesystem::path& file,
                        const std::function<void(const json& value, std::size_t line)>& use) {
    for_each_line(file, max_json_line_bytes,
                  [&](const Line& line) { use(parse_json(line.text, file.string(), {}, line.number), line.number); });
}

namespace detail {

const json* find_member(const json& object, const std::string& key, const std::string& source) {
    require(object.is_object(), ExitCode::corrupt_input,
            "{} has no key '{}' (an object is expected, it is {}); correct it or get the file again", source,
            printable(key), object.type_name());
    const auto member = object.find(key);
    return member == object.end() || member->is_null() ? nullptr : &*member;
}

void fail_missing(const std::string& key, const std::string& source) {
    fail(ExitCode::corrupt_input, "{} has no key '{}' (it is required); add it or get the file again", source,
         printable(key));
}

void fail_type(const json& value, std::string_view expected, const std::string& key, const std::string& source) {
    constexpr std::size_t shown = 60;
    const std::string found = value.is_structured()
                                  ? value.type_name()
                                  : printable(value.dump(-1, ' ', false, json::error_handler_t::replace), shown);
    fail(ExitCode::corrupt_input, "{}: can't use key '{}' (expected {}, found {}); correct it or get the file again",
         source, printable(key), expected, found);
}

std::int64_t to_integer(const json& value, std::int64_t minimum, std::int64_t maximum, const std::string& key,
                        const std::string& source) {
    bool valid = false;
    if (value.is_number_unsigned()) {
        const auto number = value.get<std::uint64_t>();
        valid = std::cmp_greater_equal(number, minimum) && std::cmp_less_equal(number, maximum);
    } else if (value.is_number_integer()) {
        const auto number = value.get<std::int64_t>();
        valid = number >= minimum && number <= maximum;
    }
    if (!valid) {
        fail_type(value, fmt::format("an integer from {} to {}", minimum, maximum), key, source);
    }
    return value.get<std::int64_t>();
}

double to_number(const json& value, double limit, const std::string& key, const std::string& source) {
    if (!value.is_number() || std::abs(value.get<double>()) > limit) {
        fail_type(value, fmt::format("a number of magnitude {} or less", limit), key, source);
    }
    return value.get<double>();
}

}  // namespace detail

core::index_t get_size(const json& object, const std::string& key, const std::string& source, core::index_t minimum,
                       core::index_t maximum) {
    const json* value = detail::find_member(object, key, source);
    if (value == nullptr) {
        detail::fail_missing(key, source);
    }
    return detail::to_integer(*value, minimum, maximum, key, source);
}

core::index_t get_size_or(const json& object, const std::string& key, core::index_t fallback, const std::string& source,
                          core::index_t minimum, core::index_t maximum) {
    const json* value = detail::find_member(object, key, source);
    return value == nullptr ? fallback : detail::to_integer(*value, minimum, maximum, key, source);
}

}  // namespace moesaic::io
