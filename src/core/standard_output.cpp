#include "core/standard_output.hpp"

#include "core/error.hpp"

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace moesaic::core {

void print(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
        return;
    }
    const int error = errno;
    std::clearerr(stdout);
    const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    fail(full ? ExitCode::out_of_resources : ExitCode::runtime_failure,
         "can't write standard output ({}); send it to a file or program that takes it all",
         std::generic_category().message(error));
}

}  // namespace moesaic::core
