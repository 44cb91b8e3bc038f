#include "measure/joined_trace.hpp"

#include "core/error.hpp"
#include "core/trace_time.hpp"
#include "io/json.hpp"
#include "measure/run_keys.hpp"
#include "measure/trace_recorder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

namespace moesaic::measure {
namespace {

namespace fs = std::filesystem;
namespace keys = run_keys;

/// Bytes of events that are handed on at once.
constexpr std::size_t piece_bytes = std::size_t{1} << 20U;

/// A number in a line, and where it stands.
struct Number {
    std::size_t begin = 0;
    std::size_t end = 0;
    double value = 0;
};

std::optional<Number> find_number(std::string_view line, std::string_view key) {
    const std::size_t at = line.rfind(key);  // behind the name, which may hold anything
    if (at == std::string_view::npos) {
        return {};
    }
    Number found;
    found.begin = at + key.size();
    const auto read = std::from_chars(line.data() + found.begin, line.data() + line.size(), found.value);
    found.end = static_cast<std::size_t>(read.ptr - line.data());
    return found;
}

/// Puts the number of the session before the hexadecimal number that follows `key`, which has at most 14 digits.
void tell_apart(std::string& event, std::string_view key, std::int64_t session) {
    constexpr std::size_t digits = 14;
    constexpr std::int64_t most_told_apart = 256;  // two digits more make 64 bits
    const std::size_t at = event.rfind(key);
    if (session == 0 || at == std::string::npos) {
        return;
    }
    const std::size_t begin = at + key.size();
    const std::size_t length = std::min(event.find('"', begin), event.size()) - begin;
    event.insert(begin, fmt::format("{:x}{:0>{}}", session % most_told_apart, "", digits - std::min(digits, length)));
}

std::string placed(const std::string& event, const SessionPlace& place,
                   const std::function<std::int64_t(std::int64_t)>& moved) {
    const auto begin = find_number(event, "\"ts\":");
    if (!begin) {
        return event;
    }
    const auto time = [&](double us) {
        return core::trace::TraceTime::of_ns(place.begin_ns + moved(std::llround(us * 1e3)));
    };
    std::string out = event.substr(0, begin->begin);
    time(begin->value).append_to(out);
    std::size_t copied = begin->end;
    if (const auto duration = find_number(event, "\"dur\":")) {
        out += event.substr(copied, duration->begin - copied);
        (time(begin->value + duration->value) - time(begin->value)).append_to(out);
        copied = duration->end;
    }
    out += event.substr(copied);
    tell_apart(out, "\"id\":\"", place.number);
    tell_apart(out, "\"call\":\"", place.number);
    return out;
}

/// Calls use(event) for the lines of events of a file, without their commas. A line that was cut when its writer was
/// killed is the last. Returns what follows them, or an empty text.
std::string for_each_event(const fs::path& file, const std::function<void(const std::string&)>& use) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line);  // begins the document
    if (line.size() + 1 != trace_begin.size() || !trace_begin.starts_with(line)) {
        return {};
    }
    while (std::getline(in, line) && line.starts_with('{')) {
        if (line.ends_with(',')) {
            line.pop_back();
        }
        if (!line.ends_with('}')) {
            return {};
        }
        use(line);
    }
    return line;
}

/// What is said behind the events; nothing if they were cut.
nlohmann::json end_of(const std::string& line, const fs::path& file) {
    constexpr std::string_view before = "],\"otherData\":";
    try {
        return line.starts_with(before) && line.ends_with('}')
                   ? io::parse_json(line.substr(before.size(), line.size() - before.size() - 1), file.string())
                   : nlohmann::json::object();
    } catch (const core::Error&) {
        return nlohmann::json::object();
    }
}

}  // namespace

std::int64_t for_each_piece(const fs::path& file, const SessionPlace& place,
                            const std::function<std::int64_t(std::int64_t)>& moved,
                            const std::function<void(const std::string&)>& use) {
    std::string piece;
    const std::string last_line = for_each_event(file, [&](const std::string& event) {
        piece += piece.empty() ? "" : ",\n";
        piece += placed(event, place, moved);
        if (piece.size() >= piece_bytes) {
            use(std::exchange(piece, {}));
        }
    });
    if (!piece.empty()) {
        use(piece);
    }
    return io::get_or<std::int64_t>(end_of(last_line, file), keys::dropped_events, 0, file.string());
}

JoinedTrace::JoinedTrace(const fs::path& file) : target_(file), writer_(target_) {
    writer_.write(std::as_bytes(std::span(trace_begin)));
    copy_sessions(file);
}

void JoinedTrace::copy_sessions(const fs::path& file) {
    double end = 0;
    std::string piece;
    const std::string last_line = for_each_event(file, [&](const std::string& event) {
        const auto begin = find_number(event, "\"ts\":");
        const auto duration = find_number(event, "\"dur\":");
        end = std::max(end, (begin ? begin->value : 0) + (duration ? duration->value : 0));
        piece += piece.empty() ? "" : ",\n";
        piece += event;
        if (piece.size() >= piece_bytes) {
            add(std::exchange(piece, {}));
        }
    });
    add(piece);
    if (is_empty_) {
        return;
    }
    const nlohmann::json data = end_of(last_line, file);
    const auto earlier = data.find(keys::sessions);
    sessions_ = earlier != data.end() && earlier->is_array() && !earlier->empty()
                    ? nlohmann::ordered_json(*earlier)
                    : nlohmann::ordered_json::array({{{keys::begin_us, 0.0}, {keys::dropped_events, 0}}});
    place_.begin_ns = std::llround((end + us_between_sessions) * 1e3);
    place_.number = std::ssize(sessions_);
}

void JoinedTrace::add(std::string_view events) {
    if (events.empty()) {
        return;
    }
    if (!std::exchange(is_empty_, false)) {
        writer_.write(std::as_bytes(std::span(std::string_view(",\n"))));
    }
    writer_.write(std::as_bytes(std::span(events)));
}

void JoinedTrace::commit(std::int64_t dropped_events, const nlohmann::ordered_json& ranks) {
    sessions_.push_back({{keys::begin_us, static_cast<double>(place_.begin_ns) * 1e-3},
                         {keys::dropped_events, dropped_events},
                         {keys::ranks, ranks}});
    const std::string end = fmt::format("\n],\"otherData\":{{\"{}\":{}}}}}\n", keys::sessions, sessions_.dump());
    writer_.write(std::as_bytes(std::span(end)));
    writer_.close();
    target_.commit();
}

std::vector<fs::path> trace_parts_in(const fs::path& parts) {
    std::set<fs::path> found;
    std::error_code missing;
    for (const fs::directory_entry& entry : fs::directory_iterator(parts, missing)) {
        if (entry.path().extension() == ".json") {
            found.insert(entry.path());
        }
    }
    return {found.begin(), found.end()};
}

void add_killed_session(const fs::path& file, const fs::path& parts) {
    const std::vector<fs::path> ranks = trace_parts_in(parts);
    if (ranks.empty()) {
        return;
    }
    JoinedTrace joined(file);
    std::int64_t dropped = 0;
    for (const fs::path& rank : ranks) {
        const auto as_it_is = [](std::int64_t ns) { return ns; };
        dropped +=
            for_each_piece(rank, joined.place(), as_it_is, [&](const std::string& events) { joined.add(events); });
    }
    joined.commit(dropped, nlohmann::ordered_json::array());
}

}  // namespace moesaic::measure
