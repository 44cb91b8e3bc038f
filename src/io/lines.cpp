#include "io/lines.hpp"

#include "core/error.hpp"
#include "io/files.hpp"

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::io {
namespace {

struct CloseFile {
    void operator()(std::FILE* file) const { (void)std::fclose(file); }
};

}  // namespace

void for_each_line(const std::filesystem::path& file, std::size_t most_bytes,
                   const std::function<void(const Line& line)>& use) {
    FileDescriptor descriptor = open_for_reading(file);
    const std::unique_ptr<std::FILE, CloseFile> stream(::fdopen(descriptor.get(), "rb"));
    if (stream == nullptr) {
        fail_reading(file, errno);
    }
    static_cast<void>(descriptor.release());  // the stream closes it
    std::vector<char> block(std::size_t{256} << 10U);
    std::string text;
    Line line;
    const auto finish_line = [&](bool ended) {
        if (text.find_first_not_of(" \t\r\n") != std::string::npos) {
            line.text = text;
            line.ended = ended;
            use(line);
        }
        text.clear();
        ++line.number;
    };
    while (const std::size_t count = std::fread(block.data(), 1, block.size(), stream.get())) {
        std::string_view rest(block.data(), count);
        while (!rest.empty()) {
            const std::size_t end = rest.find('\n');
            const std::string_view part = rest.substr(0, end);
            core::require(
                text.size() + part.size() <= most_bytes, core::ExitCode::corrupt_input,
                "{}:{}: the line is too long (the limit is {} bytes); check that the file is JSON Lines, one object "
                "per line",
                file.string(), line.number, most_bytes);
            text += part;
            if (end == std::string_view::npos) {
                break;
            }
            finish_line(true);
            rest.remove_prefix(end + 1);
        }
    }
    if (std::ferror(stream.get()) != 0) {
        fail_reading(file, errno);
    }
    finish_line(false);
}

}  // namespace moesaic::io
