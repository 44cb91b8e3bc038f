#include "app/progress.hpp"

#include "core/standard_output.hpp"
#include "core/trace.hpp"
#include "io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

namespace moesaic::app {
namespace {

/// Where standard output goes, if a person sees it as it comes; otherwise empty. mpirun gives its ranks a terminal of
/// their own, whatever it does with their output: the parent process must write to a terminal too, which is the one.
std::string terminal_of_parent() {
    std::error_code error;
    const std::string parent = fmt::format("/proc/{}/fd/1", getppid());
    const std::string target = std::filesystem::read_symlink(parent, error).string();
    const bool terminal = target.starts_with("/dev/pts/") || target.starts_with("/dev/tty");
    return isatty(STDOUT_FILENO) != 0 && terminal ? target : std::string();
}

/// Columns that a line may fill.
std::size_t width_of(const std::string& terminal) {
    constexpr std::size_t usual = 80;
    winsize size{};
    const io::FileDescriptor opened(open(terminal.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC));
    const bool known = opened.get() >= 0 && ioctl(opened.get(), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return (known ? size.ws_col : usual) - 1;
}

}  // namespace

Progress::Progress(bool speaks)
    : speaks_(speaks), terminal_(!terminal_of_parent().empty()), shown_ns_(core::trace::now_ns()) {}

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
        write("\r\x1b[K" + text.substr(0, width_of(terminal_of_parent())));
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
