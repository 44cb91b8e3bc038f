// What the suites of src/io share: whole files as bytes, and the check of an error.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "support/temporary_folder.hpp"

namespace moesaic::io::test {

using moesaic::test::TemporaryFolder;

inline void write_bytes(const std::filesystem::path& file, std::string_view bytes) {
    std::ofstream stream(file, std::ios::binary | std::ios::trunc);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(stream.good());
}

[[nodiscard]] inline std::string read_bytes(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// Expects that `action` throws core::Error with this exit code and a one-line message "PROBLEM (WHY); SUGGESTION" that
/// contains `part`.
template <class Action>
void expect_error(core::ExitCode code, std::string_view part, Action&& action) {
    try {
        action();
        ADD_FAILURE() << "no error, but one with '" << part << "' is expected";
    } catch (const core::Error& error) {
        const std::string_view message = error.what();
        EXPECT_EQ(error.code(), code) << message;
        EXPECT_NE(message.find(part), std::string_view::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string_view::npos) << message;
        EXPECT_LT(message.find(" ("), message.rfind("; ")) << message;
        EXPECT_LT(message.rfind("; "), message.size()) << message;
    }
}

/// Runs `action` in a death test's child process: files may not grow beyond `bytes`, which fails like a full disk. The
/// process ends through exit, so that the exit handlers of libraries run, with the exit code of the error or 0.
template <class Action>
[[noreturn]] void exit_with_file_size_limit(rlim_t bytes, Action&& action) {
    (void)std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {bytes, bytes};
    (void)::setrlimit(RLIMIT_FSIZE, &limit);
    try {
        action();
    } catch (const core::Error& error) {
        std::exit(static_cast<int>(error.code()));
    }
    std::exit(0);
}

}  // namespace moesaic::io::test
