// Text files line by line.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string_view>

namespace moesaic::io {

struct Line {
    std::string_view text;
    std::size_t number = 1;
    bool ended = true;  ///< false for a last line without its "\n"
};

/// Calls `use(line)` for every line of a file that is not blank. The file is streamed, so it may be larger than memory.
/// A missing or unreadable file throws with ExitCode::usage, a line of more than `most_bytes` with
/// ExitCode::corrupt_input.
void for_each_line(const std::filesystem::path& file, std::size_t most_bytes,
                   const std::function<void(const Line& line)>& use);

}  // namespace moesaic::io
