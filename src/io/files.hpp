// Files: error reports by cause, bounded and exact reads, and replacement of a file only by a complete new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.hpp"

namespace moesaic::io {

/// Throws "can't read FILE (REASON); ..." for the errno value `error`, with ExitCode::usage when the path or its
/// permissions are at fault and ExitCode::runtime_failure otherwise (for example an I/O error of the disk).
[[noreturn]] void fail_reading(const std::filesystem::path& file, int error);

/// Throws "can't write FILE (REASON); ..." for the errno value `error`: ExitCode::out_of_resources when the disk, a
/// quota or a file size limit is exhausted, ExitCode::usage when the path or its permissions are at fault, otherwise
/// ExitCode::runtime_failure.
[[noreturn]] void fail_writing(const std::filesystem::path& file, int error);

/// Creates the folder and its parents; an existing folder is fine. Throws with ExitCode::usage if a part of the path is
/// no folder or may not be written.
void create_folder(const std::filesystem::path& folder);

/// The whole content of a regular file of at most `limit` bytes. Larger files throw with ExitCode::corrupt_input.
[[nodiscard]] std::string read_file(const std::filesystem::path& file, std::size_t limit);

/// Replaces `file` by `text`: readers see the old or the new content, also after a crash. Folders must exist.
void write_file_atomically(const std::filesystem::path& file, std::string_view text);

/// Throws now what `write_file_atomically` would throw later, unless the disk fills up, and with ExitCode::usage for a
/// folder that is not there. Leaves the file as it is.
void require_writable(const std::filesystem::path& file);

/// An open file, closed by the destructor; errors of closing are only reported by `close`.
class FileDescriptor {
public:
    FileDescriptor() = default;
    explicit FileDescriptor(int descriptor) noexcept : descriptor_(descriptor) {}
    FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept;
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;
    ~FileDescriptor();

    /// 0 or the errno value of the failed close, which on network file systems is where a full disk shows.
    [[nodiscard]] int close() noexcept;
    [[nodiscard]] int get() const noexcept { return descriptor_; }
    /// Leaves the file open for somebody else to close.
    [[nodiscard]] int release() noexcept { return std::exchange(descriptor_, -1); }

private:
    int descriptor_ = -1;
};

/// Opens a regular file for reading, at once: a FIFO, a device or a folder throws with ExitCode::usage, as wrong paths
/// do.
[[nodiscard]] FileDescriptor open_for_reading(const std::filesystem::path& file);

/// A regular file opened for reading at any offset from any thread.
class RandomAccessFile {
public:
    explicit RandomAccessFile(std::filesystem::path file);

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
    /// Size in bytes when the file was opened.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    /// Fills `out` with the bytes from `offset` on; a file that ends earlier throws with ExitCode::corrupt_input.
    void read(std::uint64_t offset, std::span<std::byte> out) const;

private:
    std::filesystem::path path_;
    FileDescriptor descriptor_;
    std::uint64_t size_ = 0;
};

/// Whether other processes may write the same file at the same time.
enum class Writers : std::uint8_t { one, several };

/// The temporary name under which FILE is being written: FILE.partial, or with several writers
/// FILE.HOST.PROCESS.partial. `commit` moves it to FILE; a destructor without commit removes it and leaves FILE as it
/// was.
class PartialFile {
public:
    /// Removes what an earlier crash left under the temporary name. The caller creates the file at `path()`.
    explicit PartialFile(std::filesystem::path target, Writers writers = Writers::one);
    PartialFile(const PartialFile&) = delete;
    PartialFile& operator=(const PartialFile&) = delete;
    ~PartialFile();

    [[nodiscard]] const std::filesystem::path& target() const noexcept { return target_; }
    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
    /// Flushes the closed temporary file to the disk, renames it to the target and flushes the folder.
    void commit();

private:
    std::filesystem::path target_;
    std::filesystem::path path_;
    bool committed_ = false;
};

/// Removes what writers of `target`, one of several, left under temporary names when they were killed: those of this
/// host if there is no such process, others if nothing was written for an hour. Errors don't matter.
void remove_abandoned(const std::filesystem::path& target);

/// Sequential output into the temporary file of a PartialFile.
class FileWriter {
public:
    explicit FileWriter(const PartialFile& file);
    void write(std::span<const std::byte> bytes);
    /// Makes the file so long, with disk space for what is not written yet.
    void reserve(std::uint64_t bytes);
    void close();

private:
    std::filesystem::path target_;
    FileDescriptor descriptor_;
};

/// Output at any offset, from any thread, into a file that exists.
class RandomAccessWriter {
public:
    explicit RandomAccessWriter(std::filesystem::path file);
    void write(std::uint64_t offset, std::span<const std::byte> bytes) const;
    /// Flushes the file to the disk.
    void close();

private:
    std::filesystem::path path_;
    FileDescriptor descriptor_;
};

}  // namespace moesaic::io
