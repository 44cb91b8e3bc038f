// The "Trace Event Format" of Chrome, which Perfetto and speedscope read too.
#pragma once

#include "core/trace.hpp"

#include <cstdint>
#include <set>
#include <span>
#include <string>

namespace moesaic::core::trace {

/// Writes the events of one rank as members of a Chrome trace array, one per line, each preceded by ",\n" but for the
/// first of all: complete events ("X"), ends of message arrows ("s", "f"), counters ("C") and names ("M"). pid is the
/// rank; times are those of TraceTime.
class ChromeFormatter {
public:
    /// `origin_ns`: the moment on this host's monotonic clock that becomes zero.
    ChromeFormatter(int rank, std::int64_t origin_ns) : rank_(rank), origin_ns_(origin_ns) {}

    void append_process_name(std::string& out, const std::string& name);
    void append(std::string& out, std::span<const Event> events);
    void append(std::string& out, std::span<const Counter> counters);

private:
    void append_separator(std::string& out);
    void append_place(std::string& out, int thread);
    void append_arrow(std::string& out, std::uint64_t id, const char* phase, std::int64_t at_ns, int thread);
    void append_name(std::string& out, const char* kind, int thread, const std::string& name);

    int rank_;
    std::int64_t origin_ns_;
    std::set<int> named_threads_;
    bool empty_ = true;
};

/// `text` as the inside of a JSON string.
[[nodiscard]] std::string escape_json(const std::string& text);

}  // namespace moesaic::core::trace
