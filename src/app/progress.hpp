// What rank 0 tells people while a command works: a line that changes in place on a terminal, whole lines elsewhere.
#pragma once

#include "core/error.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace moesaic::app {

/// Output that can't be written, because a pipe was closed or a disk is full, never ends the program: it is noted.
class Progress {
public:
    /// `speaks` on rank 0 only.
    explicit Progress(bool speaks);

    /// The state of affairs, cut to the terminal's width. Most are left out: on a terminal all that come within a tenth
    /// of a second, elsewhere within five. What `must` be shown is.
    void show(const std::string& text, bool must = false);
    /// The same, but on a terminal only, where the next line takes its place.
    void show_briefly(const std::string& text);
    /// A line that stays.
    void say(const std::string& line);

    /// Why something could not be written; nothing if all was.
    [[nodiscard]] const std::optional<core::Error>& error() const noexcept { return error_; }

private:
    void write(const std::string& text);

    bool speaks_;
    bool terminal_;
    bool line_open_ = false;
    bool line_brief_ = false;
    std::int64_t shown_ns_;
    std::optional<core::Error> error_;
};

/// "1:02:03" of so many seconds.
[[nodiscard]] std::string clock_text(double seconds);

}  // namespace moesaic::app
