// Checkpoints on a file system without locks. The flock of this program stands before that of the C library.
#include "io/checkpoint.hpp"
#include "io/hdf5.hpp"

#include "core/error.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdlib>

extern "C" int flock(int /*descriptor*/, int /*operation*/) noexcept {
    errno = ENOLCK;
    return -1;
}

namespace moesaic::io {
namespace {

/// In a process of its own: HDF5 reads the variable once.
TEST(Locking, IsNotNeeded) {
    const test::TemporaryFolder folder;
    const auto write = [&] {
        ::unsetenv("HDF5_USE_FILE_LOCKING");
        const std::filesystem::path file = folder.path() / "a.h5";
        static_cast<void>(hdf5::create_file(file, {file, true}));
        std::exit(0);
    };
    EXPECT_EXIT(write(), testing::ExitedWithCode(0), "");
}

TEST(Locking, ThatASiteAsksForIsNamed) {
    const test::TemporaryFolder folder;
    ::setenv("HDF5_USE_FILE_LOCKING", "TRUE", 1);
    const std::filesystem::path file = folder.path() / "b.h5";
    try {
        static_cast<void>(hdf5::create_file(file, {file, true}));
        ADD_FAILURE() << "written";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::runtime_failure);
        EXPECT_NE(std::string(error.what()).find("unset HDF5_USE_FILE_LOCKING"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace moesaic::io
