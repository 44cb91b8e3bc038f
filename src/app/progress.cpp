#include "app/progress.hpp"

#include "app/terminal.hpp"
#include "core/standard_output.hpp"
#include "core/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace moesaic::app {
Progress::Progress(bool speaks)
    : speaks_(speaks), terminal_(!terminal_of_output().empty()), shown_ns_(core::trace::now_ns()) {}

void Progress::write(const std::string& text) {
    try {
        core::print(text);
    } catch (const core::Error& error) {
        error_ = error_ ? error_ : error;
    }
}

void Progress::show(const std::string& text, bool must) {
    constexpr std::int64_t terminal_interval_ns = 100'000'000;
    constexpr std::int64_t log_interval_ns = 5'000'000'000;
    const std::int64_t now = core::trace::now_ns();
    if (!speaks_ || (!must && now - shown_ns_ < (terminal_ ? terminal_interval_ns : log_interval_ns))) {
        return;
    }
    shown_ns_ = now;
    if (terminal_) {
        write("\r\x1b[K" + text.substr(0, columns_of(terminal_of_output())));
        line_open_ = true;
        line_brief_ = false;
    } else {
        write(text + "\n");
    }
}

void Progress::show_briefly(const std::string& text) {
    if (terminal_) {
        const bool replaces = !line_open_ || line_brief_;
        if (!replaces) {
            write("\n");
        }
        show(text);
        line_brief_ = line_open_;
    }
}

void Progress::say(const std::string& line) {
    if (speaks_) {
        const std::string_view before = !line_open_ ? "" : line_brief_ ? "\r\x1b[K" : "\n";
        write(fmt::format("{}{}\n", before, line));
        line_open_ = false;
    }
}

std::string clock_text(double seconds) {
    const auto whole = static_cast<std::int64_t>(std::max(seconds, 0.0));
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace moesaic::app
