// Errors that users see: an exit code and one line "PROBLEM (WHY); SUGGESTION".
#pragma once

#include "core/text.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace moesaic::core {

/// Exit codes of the `moesaic` executable.
enum class ExitCode : int {
    success = 0,
    runtime_failure = 1,
    usage = 2,
    verification_failed = 3,
    corrupt_input = 4,
    out_of_resources = 5,  ///< memory or disk
    stopped_for_requeue = 75,
};

/// An error with the exit code that the process ends with. The message names the file, the tensor, line or key, the
/// reason and a suggestion: "PROBLEM (WHY); SUGGESTION". What it repeats of a file or of the command line is made
/// printable here.
class Error : public std::runtime_error {
public:
    Error(ExitCode code, const std::string& message)
        : std::runtime_error(printable(message, longest_message)), code_(code) {}
    [[nodiscard]] ExitCode code() const noexcept { return code_; }

private:
    static constexpr std::size_t longest_message = 4000;

    ExitCode code_;
};

/// What users read when std::bad_alloc was thrown.
inline constexpr const char* out_of_memory_message =
    "out of memory (an allocation failed); use more ranks, a smaller train.micro_batch or a smaller data.max_length";

/// Throws an Error whose message is formatted by fmt.
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
    throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws unless `condition` holds; for conditions that the user's input decides.
template <class... Args>
void require(bool condition, ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
    if (!condition) {
        throw Error(code, fmt::format(format, std::forward<Args>(args)...));
    }
}

}  // namespace moesaic::core
