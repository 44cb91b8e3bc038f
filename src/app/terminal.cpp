#include "app/terminal.hpp"

#include "io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace moesaic::app {

// mpirun gives its ranks a terminal of their own, whatever it does with their output: the parent process must write to
// a terminal too, which is the one.
std::string terminal_of_output() {
    std::error_code error;
    const std::string parent = fmt::format("/proc/{}/fd/1", getppid());
    const std::string target = std::filesystem::read_symlink(parent, error).string();
    const bool terminal = target.starts_with("/dev/pts/") || target.starts_with("/dev/tty");
    return isatty(STDOUT_FILENO) != 0 && terminal ? target : std::string();
}

std::size_t columns_of(const std::string& terminal) {
    constexpr std::size_t usual = 80;
    winsize size{};
    const io::FileDescriptor opened(open(terminal.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC));
    const bool known = opened.get() >= 0 && ioctl(opened.get(), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return (known ? size.ws_col : usual) - 1;
}

std::size_t columns_for_reading() {
    constexpr std::size_t most = 100;
    const char* const variable = std::getenv("COLUMNS");
    const std::string_view text = variable == nullptr ? "" : variable;
    std::size_t wished = 0;
    std::from_chars(text.data(), text.data() + text.size(), wished);
    if (wished > 0) {
        return wished;
    }
    const std::string terminal = terminal_of_output();
    return terminal.empty() ? most : std::min(columns_of(terminal), most);
}

}  // namespace moesaic::app
