#include "io/files.hpp"
#include "io/json.hpp"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <fstream>

#include "support.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using test::expect_error;
using test::TemporaryFolder;

TEST(Files, ErrorsHaveTheExitCodeOfTheirCause) {
    expect_error(ExitCode::usage, "No such file", [] { fail_reading("x", ENOENT); });
    expect_error(ExitCode::runtime_failure, "Input/output", [] { fail_reading("x", EIO); });
    expect_error(ExitCode::out_of_resources, "No space left", [] { fail_writing("x", ENOSPC); });
    expect_error(ExitCode::out_of_resources, "quota", [] { fail_writing("x", EDQUOT); });
    expect_error(ExitCode::usage, "Read-only", [] { fail_writing("x", EROFS); });
    expect_error(ExitCode::runtime_failure, "Input/output", [] { fail_writing("x", EIO); });
}

TEST(Files, AtomicWriteReplacesAndLeavesNothingElse) {
    const TemporaryFolder folder;
    write_file_atomically(folder / "a", "one");
    write_file_atomically(folder / "a", "two\n");
    EXPECT_EQ(test::read_bytes(folder / "a"), "two\n");
    write_file_atomically(folder / "a", "");
    EXPECT_EQ(test::read_bytes(folder / "a"), "");
    EXPECT_EQ(folder.entries(), 1);
}

TEST(Files, AtomicWriteReplacesLeftoverLinksInsteadOfFollowingThem) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "other", "untouched");
    std::filesystem::create_symlink(folder / "other", folder / "a.partial");
    write_file_atomically(folder / "a", "text");
    EXPECT_EQ(test::read_bytes(folder / "other"), "untouched");
    EXPECT_FALSE(std::filesystem::is_symlink(folder / "a"));
}

TEST(Files, WritingWhereNoFileCanBeIsAUsageError) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "file", "x");
    std::filesystem::create_directory(folder / "folder");
    expect_error(ExitCode::usage, "missing/a", [&] { write_file_atomically(folder / "missing/a", "x"); });
    expect_error(ExitCode::usage, "Not a directory", [&] { write_file_atomically(folder / "file/a", "x"); });
    expect_error(ExitCode::usage, "Is a directory", [&] { write_file_atomically(folder / "folder", "x"); });
    expect_error(ExitCode::usage, "Not a directory", [&] { create_folder(folder / "file/a"); });
    expect_error(ExitCode::usage, "Not a directory", [&] { create_folder(folder / "file"); });
    EXPECT_FALSE(std::filesystem::exists(folder / "folder.partial"));
}

TEST(Files, CreateFolderMakesParentsAndAcceptsAnExistingOne) {
    const TemporaryFolder folder;
    create_folder(folder / "a/b/c");
    create_folder(folder / "a/b/c/");
    EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
}

TEST(Files, ReadFileIsBounded) {
    const TemporaryFolder folder;
    const std::string text(100'000, 'x');
    test::write_bytes(folder / "a", text);
    EXPECT_EQ(read_file(folder / "a", text.size()), text);
    expect_error(ExitCode::corrupt_input, "more than 99999 bytes", [&] { (void)read_file(folder / "a", 99'999); });
    expect_error(ExitCode::usage, "No such file", [&] { (void)read_file(folder / "b", 1000); });
    expect_error(ExitCode::usage, "Is a directory", [&] { (void)read_file(folder.path(), 1000); });
}

TEST(Files, RandomAccessReadsAnyRangeOfRegularFilesOnly) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "a", "0123456789");
    const RandomAccessFile file(folder / "a");
    EXPECT_EQ(file.size(), 10U);
    std::array<char, 4> text = {};
    file.read(3, std::as_writable_bytes(std::span(text)));
    EXPECT_EQ(std::string_view(text.data(), text.size()), "3456");
    expect_error(ExitCode::corrupt_input, "shorter", [&] { file.read(8, std::as_writable_bytes(std::span(text))); });

    ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
    expect_error(ExitCode::usage, "not a regular file", [&] { RandomAccessFile unused(folder / "fifo"); });
    expect_error(ExitCode::usage, "not a regular file", [&] { static_cast<void>(read_file(folder / "fifo", 1)); });
    expect_error(ExitCode::usage, "not a regular file", [&] { for_each_json_line(folder / "fifo", {}); });
    expect_error(ExitCode::usage, "not a regular file", [] { static_cast<void>(read_file("/dev/zero", 1)); });
    expect_error(ExitCode::usage, "not a regular file", [&] { RandomAccessFile unused(folder.path()); });
    expect_error(ExitCode::usage, "No such file", [&] { RandomAccessFile unused(folder / "b"); });
}

TEST(Files, SeveralWritersOfAFileDoNotDisturbEachOther) {
    const TemporaryFolder folder;
    const std::filesystem::path target = folder / "a.cache";
    PartialFile mine(target, Writers::several);
    test::write_bytes(mine.path(), "mine");
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const pid_t other = ::fork();
    if (other == 0) {
        const PartialFile partial(target, Writers::several);
        std::ofstream(partial.path()) << "of the other";
        (void)!::write(pipe[1], "x", 1);
        ::pause();
    }
    char ready = 0;
    ASSERT_EQ(::read(pipe[0], &ready, 1), 1);
    EXPECT_EQ(folder.entries(), 2);
    remove_abandoned(target);  // nothing while both run
    EXPECT_EQ(folder.entries(), 2);
    mine.commit();
    EXPECT_EQ(test::read_bytes(target), "mine");
    EXPECT_EQ(folder.entries(), 2);
    ASSERT_EQ(::kill(other, SIGKILL), 0);
    ASSERT_EQ(::waitpid(other, nullptr, 0), other);
    EXPECT_EQ(folder.entries(), 2);
    remove_abandoned(target);  // what the killed one left
    EXPECT_EQ(folder.entries(), 1);
    EXPECT_EQ(test::read_bytes(target), "mine");
}

TEST(Files, WhatWritersOnOtherHostsLeftIsRemovedWhenItIsOld) {
    const TemporaryFolder folder;
    const auto make = [&](const std::string& name, std::chrono::minutes age) {
        test::write_bytes(folder / name, "x");
        std::filesystem::last_write_time(folder / name, std::filesystem::file_time_type::clock::now() - age);
    };
    make("a.node-7.example.org.123.partial", std::chrono::minutes(50));
    make("a.node-8.example.org.123.partial", std::chrono::minutes(70));
    for (const char* other : {"a", "a.partial", "a.node.partial", "a.node.x1.partial", "b.node.123.partial",
                              "a.node.123.partial.bak", "a.123.partial"}) {
        make(other, std::chrono::minutes(70));
    }
    remove_abandoned(folder / "a");
    EXPECT_FALSE(std::filesystem::exists(folder / "a.node-8.example.org.123.partial"));
    EXPECT_EQ(folder.entries(), 8);
    EXPECT_NO_THROW(remove_abandoned(folder / "missing/a"));
}

TEST(Files, WhatCannotBeWrittenIsKnownBeforehand) {
    const TemporaryFolder folder;
    EXPECT_NO_THROW(require_writable(folder / "a.json"));
    EXPECT_EQ(folder.entries(), 0);
    expect_error(ExitCode::usage, "it is a folder", [&] { require_writable(folder.path()); });
    expect_error(ExitCode::usage, "no folder", [&] { require_writable(folder / "b/a.json"); });
    expect_error(ExitCode::usage, "too long", [&] { require_writable(folder / std::string(300, 'x') / "a.json"); });
}

TEST(FilesDeathTest, FullDiskKeepsTheOldFile) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a";
    write_file_atomically(file, "old");
    const auto write = [&] { write_file_atomically(file, std::string(100'000, 'x')); };
    EXPECT_EXIT(test::exit_with_file_size_limit(5000, write), testing::ExitedWithCode(5), "");
    EXPECT_EQ(test::read_bytes(file), "old");
    EXPECT_EQ(folder.entries(), 1);
}

}  // namespace
}  // namespace moesaic::io
