#include "io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <iterator>
#include <system_error>

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
using core::require;

std::string reason(int error) {
    return std::generic_category().message(error);
}

/// Whether the path or its permissions cause the error, so that another path or chmod helps.
bool is_path_error(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
        case EISDIR:
        case EACCES:
        case EPERM:
        case EROFS:
        case ELOOP:
        case ENAMETOOLONG:
        case EEXIST:
        case EINVAL:
            return true;
        default:
            return false;
    }
}

bool is_exhausted(int error) {
    return error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM;
}

int open_retrying(const std::filesystem::path& file, int flags, unsigned mode = 0) {
    int descriptor = -1;
    do {
        descriptor = ::open(file.c_str(), flags | O_CLOEXEC, mode);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/// Flushes a file or folder to the disk; returns 0 or an errno value. File systems that can't flush a folder are fine.
int flush_to_disk(const std::filesystem::path& path) {
    FileDescriptor descriptor(open_retrying(path, O_RDONLY));
    if (descriptor.get() < 0) {
        return errno;
    }
    int status = 0;
    do {
        status = ::fsync(descriptor.get());
    } while (status != 0 && errno == EINTR);
    const int error = status == 0 || errno == EINVAL ? 0 : errno;
    const int close_error = descriptor.close();
    return error != 0 ? error : close_error;
}

constexpr std::string_view partial_suffix = ".partial";

std::filesystem::path folder_of(const std::filesystem::path& file) {
    return file.has_parent_path() ? file.parent_path() : ".";
}

std::string host_name() {
    std::array<char, HOST_NAME_MAX + 1> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// Whether the writer of a temporary file, "HOST.PROCESS" in its name, has ended.
bool has_ended(std::string_view writer, const std::filesystem::directory_entry& file) {
    const std::size_t dot = writer.rfind('.');
    pid_t process = 0;
    if (dot == std::string_view::npos ||
        std::from_chars(writer.data() + dot + 1, writer.data() + writer.size(), process).ptr !=
            writer.data() + writer.size() ||
        process <= 0) {
        return false;  // no such name
    }
    if (writer.substr(0, dot) == host_name()) {
        return ::kill(process, 0) != 0 && errno == ESRCH;
    }
    std::error_code error;
    const auto written = file.last_write_time(error);
    return !error && std::filesystem::file_time_type::clock::now() - written > std::chrono::hours(1);
}

}  // namespace

void fail_reading(const std::filesystem::path& file, int error) {
    const bool path_error = is_path_error(error);
    fail(path_error ? ExitCode::usage : ExitCode::runtime_failure, "can't read {} ({}); {}", file.string(),
         reason(error),
         path_error ? "check the path and its permissions" : "check the disk and the limits of the system");
}

void fail_writing(const std::filesystem::path& file, int error) {
    if (is_exhausted(error)) {
        fail(ExitCode::out_of_resources, "can't write {} ({}); free some space or write to another disk", file.string(),
             reason(error));
    }
    if (is_path_error(error)) {
        fail(ExitCode::usage, "can't write {} ({}); choose a folder that exists and may be written", file.string(),
             reason(error));
    }
    fail(ExitCode::runtime_failure, "can't write {} ({}); check the disk and the limits of the system", file.string(),
         reason(error));
}

void create_folder(const std::filesystem::path& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
        fail_writing(folder, error.value());
    }
    if (!std::filesystem::is_directory(folder, error)) {
        fail_writing(folder, error ? error.value() : ENOTDIR);
    }
}

std::string read_file(const std::filesystem::path& file, std::size_t limit) {
    const FileDescriptor descriptor = open_for_reading(file);
    constexpr std::size_t block = std::size_t{1} << 20U;
    std::string text;
    std::size_t used = 0;
    while (used <= limit) {
        if (text.size() - used < block) {
            text.resize(std::max(used + block, std::min(2 * used, limit + block)));
        }
        const ssize_t count = ::read(descriptor.get(), text.data() + used, text.size() - used);
        if (count < 0 && errno != EINTR) {
            fail_reading(file, errno);
        }
        if (count == 0) {
            text.resize(used);
            return text;
        }
        used += count > 0 ? static_cast<std::size_t>(count) : 0;
    }
    fail(ExitCode::corrupt_input,
         "can't read {} (it has more than {} bytes, the limit for such a file); check that it is "
         "the right file",
         file.string(), limit);
}

void write_file_atomically(const std::filesystem::path& file, std::string_view text) {
    PartialFile partial(file);
    FileWriter writer(partial);
    writer.write(std::as_bytes(std::span(text)));
    writer.close();
    partial.commit();
}

void require_writable(const std::filesystem::path& file) {
    const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
    std::error_code error;
    const bool is_folder = std::filesystem::is_directory(file, error);
    if (error && error != std::errc::no_such_file_or_directory) {
        fail_writing(file, error.value());
    }
    require(!is_folder, ExitCode::usage, "can't write {} (it is a folder); name a file in it", file.string());
    require(std::filesystem::is_directory(folder, error), ExitCode::usage,
            "can't write {} (there is no folder {}); create it, or choose another", file.string(), folder.string());
    const PartialFile partial(file);
    FileWriter(partial).close();
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

FileDescriptor::~FileDescriptor() {
    (void)close();
}

int FileDescriptor::close() noexcept {
    // Linux releases the descriptor even when close is interrupted: never a second call, and EINTR is no error.
    const int descriptor = std::exchange(descriptor_, -1);
    return descriptor < 0 || ::close(descriptor) == 0 || errno == EINTR ? 0 : errno;
}

FileDescriptor open_for_reading(const std::filesystem::path& file) {
    // O_NONBLOCK: opening a FIFO must fail below instead of waiting for its writer.
    FileDescriptor descriptor(open_retrying(file, O_RDONLY | O_NONBLOCK));
    struct stat status = {};
    if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) {
        fail_reading(file, errno);
    }
    require(S_ISREG(status.st_mode), ExitCode::usage, "can't read {} ({}not a regular file); check the path",
            file.string(), S_ISDIR(status.st_mode) ? reason(EISDIR) + ", " : "it is ");
    return descriptor;
}

RandomAccessFile::RandomAccessFile(std::filesystem::path file)
    : path_(std::move(file)), descriptor_(open_for_reading(path_)) {
    struct stat status = {};
    if (::fstat(descriptor_.get(), &status) != 0) {
        fail_reading(path_, errno);
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
}

void RandomAccessFile::read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t count = ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            fail_reading(path_, errno);
        }
        require(count > 0, ExitCode::corrupt_input,
                "{} is shorter than its header says (it ends before byte {}); don't change it while it is read, or "
                "download it again",
                path_.string(), offset + out.size());
        offset += static_cast<std::uint64_t>(count);
        out = out.subspan(static_cast<std::size_t>(count));
    }
}

PartialFile::PartialFile(std::filesystem::path target, Writers writers) : target_(std::move(target)), path_(target_) {
    if (writers == Writers::several) {
        path_ += fmt::format(".{}.{}", host_name(), ::getpid());
    }
    path_ += partial_suffix;
    if (::unlink(path_.c_str()) != 0 && errno != ENOENT) {
        fail_writing(target_, errno);
    }
}

PartialFile::~PartialFile() {
    if (!committed_) {
        // After a failed write a library may hold the file open for good: emptying it gives its blocks back anyway.
        (void)!::truncate(path_.c_str(), 0);
        (void)::unlink(path_.c_str());
    }
}

void PartialFile::commit() {
    if (const int error = flush_to_disk(path_); error != 0) {
        fail_writing(target_, error);
    }
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
        fail_writing(target_, errno);
    }
    committed_ = true;
    if (const int error = flush_to_disk(folder_of(target_)); error != 0) {
        fail_writing(target_, error);
    }
}

void remove_abandoned(const std::filesystem::path& target) {
    const std::string prefix = target.filename().string() + ".";
    std::error_code ignored;
    for (std::filesystem::directory_iterator entry(folder_of(target), ignored), end; entry != end;
         entry.increment(ignored)) {
        const std::string name = entry->path().filename().string();
        if (name.size() > prefix.size() + partial_suffix.size() && name.starts_with(prefix) &&
            name.ends_with(partial_suffix) &&
            has_ended(std::string_view(name).substr(prefix.size(), name.size() - prefix.size() - partial_suffix.size()),
                      *entry)) {
            std::filesystem::remove(entry->path(), ignored);
        }
    }
}

FileWriter::FileWriter(const PartialFile& file)
    : target_(file.target()), descriptor_(open_retrying(file.path(), O_WRONLY | O_CREAT | O_EXCL, 0666)) {
    if (descriptor_.get() < 0) {
        fail_writing(target_, errno);
    }
}

void FileWriter::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(descriptor_.get(), bytes.data(), bytes.size());
        if (count < 0 && errno != EINTR) {
            fail_writing(target_, errno);
        }
        bytes = bytes.subspan(count > 0 ? static_cast<std::size_t>(count) : 0);
    }
}

void FileWriter::reserve(std::uint64_t bytes) {
    const int error = ::posix_fallocate(descriptor_.get(), 0, static_cast<off_t>(bytes));
    if (error != 0) {
        fail_writing(target_, error);
    }
}

void FileWriter::close() {
    if (const int error = descriptor_.close(); error != 0) {
        fail_writing(target_, error);
    }
}

RandomAccessWriter::RandomAccessWriter(std::filesystem::path file)
    : path_(std::move(file)), descriptor_(open_retrying(path_, O_WRONLY)) {
    if (descriptor_.get() < 0) {
        fail_writing(path_, errno);
    }
}

void RandomAccessWriter::write(std::uint64_t offset, std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
        const ssize_t count = ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (count < 0 && errno != EINTR) {
            fail_writing(path_, errno);
        }
        const std::size_t written = count > 0 ? static_cast<std::size_t>(count) : 0;
        offset += written;
        bytes = bytes.subspan(written);
    }
}

void RandomAccessWriter::close() {
    if (::fsync(descriptor_.get()) != 0 && errno != EINVAL) {
        fail_writing(path_, errno);
    }
    if (const int error = descriptor_.close(); error != 0) {
        fail_writing(path_, error);
    }
}

}  // namespace moesaic::io
