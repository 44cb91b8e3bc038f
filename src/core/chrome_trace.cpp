#include "core/chrome_trace.hpp"

#include "core/trace_time.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <iterator>

namespace moesaic::core::trace {
namespace {

// Appending piece by piece takes a third of the time that a format string takes.

void append_number(std::string& out, std::int64_t number) {
    const fmt::format_int digits(number);
    out.append(digits.data(), digits.size());
}

void append_hex(std::string& out, std::uint64_t number) {
    std::array<char, 16> digits{};
    out.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), number, 16).ptr);
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
    fmt::format_to(std::back_inserter(out), R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
                   kind, rank_, thread, escape_json(name));
}

void ChromeFormatter::append_process_name(std::string& out, const std::string& name) {
    append_name(out, "process_name", 0, name);
}

void ChromeFormatter::append_place(std::string& out, int thread) {
    out += R"(,"pid":)";
    append_number(out, rank_);
    out += R"(,"tid":)";
    append_number(out, thread);
}

void ChromeFormatter::append_arrow(std::string& out, std::uint64_t id, const char* phase, std::int64_t at_ns,
                                   int thread) {
    if (id == 0) {
        return;
    }
    append_separator(out);
    out += R"({"name":"message","cat":"mpi",)";
    out += phase;
    out += R"(,"id":")";
    append_hex(out, id);
    out += R"(","ts":)";
    TraceTime::of_ns(at_ns - origin_ns_).append_to(out);
    append_place(out, thread);
    out += '}';
}

void ChromeFormatter::append(std::string& out, std::span<const Event> events) {
    for (const Event& event : events) {
        if (named_threads_.insert(event.thread).second) {
            append_name(out, "thread_name", event.thread, fmt::format("thread {}", event.thread));
        }
        const TraceTime begin = TraceTime::of_ns(event.begin_ns - origin_ns_);
        const TraceTime end = TraceTime::of_ns(event.end_ns - origin_ns_);
        append_separator(out);
        out += R"({"name":")";
        out += event.name;
        out += R"(","cat":")";
        out += event.category;
        out += R"(","ph":"X","ts":)";
        begin.append_to(out);
        out += R"(,"dur":)";
        (end - begin).append_to(out);
        append_place(out, event.thread);
        if (event.bytes >= 0) {
            out += R"(,"args":{"bytes":)";
            append_number(out, event.bytes);
            if (event.transfer.call != 0) {
                out += R"(,"call":")";
                append_hex(out, event.transfer.call);
                out += '"';
            }
            out += '}';
        }
        out += '}';
        // Viewers attach an arrow to the interval around its end: neither may lie outside of it.
        append_arrow(out, event.transfer.sent, R"("ph":"s")", event.begin_ns, event.thread);
        append_arrow(out, event.transfer.received, R"("ph":"f","bp":"e")", event.end_ns, event.thread);
    }
}

void ChromeFormatter::append(std::string& out, std::span<const Counter> counters) {
    const auto sink = std::back_inserter(out);
    for (const Counter& counter : counters) {
        append_separator(out);
        fmt::format_to(sink, R"({{"name":"{}","ph":"C","ts":)", escape_json(counter.name));
        TraceTime::of_ns(counter.at_ns - origin_ns_).append_to(out);
        fmt::format_to(sink, R"(,"pid":{},"tid":0,"args":{{)", rank_);
        for (std::size_t i = 0; i < counter.values.size(); ++i) {
            const std::string series = counter.series.empty() ? std::to_string(i) : escape_json(counter.series[i]);
            fmt::format_to(sink, R"({}"{}":{})", i == 0 ? "" : ",", series, counter.values[i]);
        }
        out += "}}";
    }
}

}  // namespace moesaic::core::trace
