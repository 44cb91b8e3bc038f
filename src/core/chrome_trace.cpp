#include "core/chrome_trace.hpp"

#include <fmt/format.h>

#include <iterator>
#include <string_view>

namespace moesaic::core::trace {
namespace {

/// Nanoseconds as microseconds with three decimals: much quicker than by way of floating point.
void append_microseconds(std::string& out, std::int64_t ns) {
    const auto magnitude = static_cast<std::uint64_t>(ns < 0 ? -ns : ns);
    fmt::format_to(std::back_inserter(out), "{}{}.{:03}", ns < 0 ? "-" : "", magnitude / 1000, magnitude % 1000);
}

}  // namespace

std::string escape_json(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
            out += c;
        }
    }
    return out;
}

void ChromeFormatter::append_separator(std::string& out) {
    if (!empty_) {
        out += ",\n";
    }
    empty_ = false;
}

void ChromeFormatter::append_name(std::string& out, const char* kind, int thread, const std::string& name) {
    append_separator(out);
    fmt::format_to(std::back_inserter(out), R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{"name":"{}"}}}})", kind,
                   rank_, thread, escape_json(name));
}

void ChromeFormatter::append_process_name(std::string& out, const std::string& name) {
    append_name(out, "process_name", 0, name);
}

void ChromeFormatter::append(std::string& out, std::span<const Event> events) {
    const auto sink = std::back_inserter(out);
    for (const Event& event : events) {
        if (named_threads_.insert(event.thread).second) {
            append_name(out, "thread_name", event.thread, fmt::format("thread {}", event.thread));
        }
        append_separator(out);
        fmt::format_to(sink, R"({{"name":"{}","cat":"{}","ph":"X","ts":)", event.name, event.category);
        append_microseconds(out, event.begin_ns - origin_ns_);
        out += R"(,"dur":)";
        append_microseconds(out, event.end_ns - event.begin_ns);
        fmt::format_to(sink, R"(,"pid":{},"tid":{})", rank_, event.thread);
        if (event.bytes >= 0) {
            fmt::format_to(sink, R"(,"args":{{"bytes":{})", event.bytes);
            if (event.transfer.call != 0) {
                fmt::format_to(sink, R"(,"call":"{:x}")", event.transfer.call);
            }
            out += '}';
        }
        out += '}';
        const auto arrow = [&](std::uint64_t id, std::string_view phase, std::int64_t at) {
            if (id != 0) {
                append_separator(out);
                fmt::format_to(sink, R"({{"name":"message","cat":"mpi","ph":{},"id":"{:x}","ts":)", phase, id);
                append_microseconds(out, at - origin_ns_);
                fmt::format_to(sink, R"(,"pid":{},"tid":{}}})", rank_, event.thread);
            }
        };
        // Viewers attach an arrow to the interval around its end: neither may lie outside of it.
        arrow(event.transfer.sent, R"("s")", event.begin_ns);
        arrow(event.transfer.received, R"("f","bp":"e")", event.end_ns);
    }
}

void ChromeFormatter::append(std::string& out, std::span<const Counter> counters) {
    const auto sink = std::back_inserter(out);
    for (const Counter& counter : counters) {
        append_separator(out);
        fmt::format_to(sink, R"({{"name":"{}","ph":"C","ts":)", escape_json(counter.name));
        append_microseconds(out, counter.at_ns - origin_ns_);
        fmt::format_to(sink, R"(,"pid":{},"tid":0,"args":{{)", rank_);
        for (std::size_t i = 0; i < counter.values.size(); ++i) {
            const std::string series = counter.series.empty() ? std::to_string(i) : escape_json(counter.series[i]);
            fmt::format_to(sink, R"({}"{}":{})", i == 0 ? "" : ",", series, counter.values[i]);
        }
        out += "}}";
    }
}

}  // namespace moesaic::core::trace
