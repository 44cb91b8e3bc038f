#include "io/growing_json.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace moesaic::io {
namespace {

std::filesystem::path with_ending(std::filesystem::path file, const char* ending) {
    return file += ending;
}

}  // namespace

GrowingJson::GrowingJson(const std::filesystem::path& file, std::string_view begin, std::string_view end)
    : file_(file), spare_file_(with_ending(file, ".spare")), third_name_(with_ending(file, ".swap")) {
    open_spare();
    write_spare(begin, end);
    if (::rename(spare_file_.c_str(), file_.c_str()) != 0) {
        fail_writing(file_, errno);
    }
    shown_ = std::exchange(spare_, {});
    open_spare();
    write_spare(begin, end);
}

GrowingJson::~GrowingJson() {
    (void)::unlink(spare_file_.c_str());
}

void GrowingJson::append(std::string_view members, std::string_view end) {
    missing_ += members;
    write_spare(missing_, end);
    show_spare();
    missing_ = members;
}

void GrowingJson::open_spare() {
    spare_.descriptor = FileDescriptor(::open(spare_file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (spare_.descriptor.get() < 0) {
        fail_writing(file_, errno);
    }
}

void GrowingJson::write_spare(std::string_view members, std::string_view end) {
    std::uint64_t offset = spare_.size;
    for (std::string_view rest : {members, end}) {
        while (!rest.empty()) {
            const ssize_t count =
                ::pwrite(spare_.descriptor.get(), rest.data(), rest.size(), static_cast<off_t>(offset));
            if (count < 0 && errno != EINTR) {
                fail_writing(file_, errno);
            }
            const auto written = static_cast<std::size_t>(count > 0 ? count : 0);
            offset += written;
            rest.remove_prefix(written);
        }
    }
    spare_.size += members.size();
}

/// FILE names a complete document before and after each of these calls.
void GrowingJson::show_spare() {
    (void)::unlink(third_name_.c_str());
    if (::link(file_.c_str(), third_name_.c_str()) != 0 || ::rename(spare_file_.c_str(), file_.c_str()) != 0 ||
        ::rename(third_name_.c_str(), spare_file_.c_str()) != 0) {
        fail_writing(file_, errno);
    }
    std::swap(shown_, spare_);
}

}  // namespace moesaic::io
