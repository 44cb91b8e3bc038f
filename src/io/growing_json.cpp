#include "io/growing_json.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

namespace moesaic::io {

GrowingJson::GrowingJson(std::filesystem::path file, std::string_view begin, std::string_view end)
    : file_(std::move(file)) {
    std::filesystem::path first_name = file_;  // nobody may find the file while it is empty
    first_name += ".partial";
    descriptor_ = FileDescriptor(::open(first_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (descriptor_.get() < 0) {
        fail_writing(file_, errno);
    }
    append(begin, end);
    if (::rename(first_name.c_str(), file_.c_str()) != 0) {
        fail_writing(file_, errno);
    }
}

void GrowingJson::append(std::string_view members, std::string_view end) {
    std::string text(members);
    text += end;
    std::string_view rest = text;
    for (std::uint64_t offset = size_; !rest.empty();) {
        const ssize_t written = ::pwrite(descriptor_.get(), rest.data(), rest.size(), static_cast<off_t>(offset));
        if (written < 0 && errno != EINTR) {
            fail_writing(file_, errno);
        }
        if (written > 0) {
            offset += static_cast<std::uint64_t>(written);
            rest.remove_prefix(static_cast<std::size_t>(written));
        }
    }
    size_ += members.size();
}

}  // namespace moesaic::io
