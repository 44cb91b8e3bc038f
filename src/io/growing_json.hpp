// A JSON document whose last array grows while the file is complete at all times.
#pragma once

#include "io/files.hpp"

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace moesaic::io {

/// One write of the system puts new members in the place of the document's end and the end behind them. Whoever reads
/// the file, also after its writer was killed, finds valid JSON.
class GrowingJson {
public:
    /// Creates or empties `file`. `begin`: everything up to and including the bracket that opens the array; `end`: from
    /// the bracket that closes it.
    GrowingJson(std::filesystem::path file, std::string_view begin, std::string_view end);

    /// `members` with their separating commas. `end` may not be shorter than it was before.
    void append(std::string_view members, std::string_view end);
    /// Bytes without the end.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

private:
    std::filesystem::path file_;
    FileDescriptor descriptor_;
    std::uint64_t size_ = 0;
};

}  // namespace moesaic::io
