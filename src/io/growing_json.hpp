// A JSON document whose last array grows while the file is complete at all times.
#pragma once

#include "io/files.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace moesaic::io {

/// Whoever reads the file, also after its writer was killed, finds valid JSON. The system may cut any write short when
/// it kills a process, so that there are two copies: new members go to FILE.spare, which then changes its name with
/// FILE. Every member is written twice; the file system must have hard links.
class GrowingJson {
public:
    /// Creates or replaces `file`. `begin`: everything up to and including the bracket that opens the array; `end`:
    /// from the bracket that closes it.
    GrowingJson(const std::filesystem::path& file, std::string_view begin, std::string_view end);
    /// Removes the spare copy.
    ~GrowingJson();
    GrowingJson(const GrowingJson&) = delete;
    GrowingJson& operator=(const GrowingJson&) = delete;

    /// `members` with their separating commas. `end` may not be shorter than it was before.
    void append(std::string_view members, std::string_view end);
    /// Bytes without the end.
    [[nodiscard]] std::uint64_t size() const noexcept { return shown_.size; }

private:
    struct Copy {
        FileDescriptor descriptor;
        std::uint64_t size = 0;  ///< bytes without the end
    };
    void open_spare();
    void write_spare(std::string_view members, std::string_view end);
    void show_spare();

    std::filesystem::path file_;
    std::filesystem::path spare_file_;
    std::filesystem::path third_name_;
    Copy shown_;
    Copy spare_;
    std::string missing_;  ///< members that the spare copy lacks
};

}  // namespace moesaic::io
