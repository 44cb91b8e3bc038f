#include "io/growing_json.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "io/json.hpp"
#include "support.hpp"

namespace moesaic::io {
namespace {

constexpr const char* begin = "{\"all\":[0";
constexpr const char* end = "]}\n";

TEST(GrowingJson, IsCompleteAfterEveryAppend) {
    const test::TemporaryFolder folder;
    GrowingJson file(folder / "a.json", begin, end);
    for (int i = 1; i < 5; ++i) {
        EXPECT_EQ(read_json(folder / "a.json")["all"].size(), static_cast<std::size_t>(i));
        file.append(fmt::format(",{}", i), end);
    }
    EXPECT_EQ(test::read_bytes(folder / "a.json"), "{\"all\":[0,1,2,3,4]}\n");
    EXPECT_EQ(folder.entries(), 2);  // it and the spare copy
    test::expect_error(core::ExitCode::usage, "No such file", [&] { GrowingJson(folder / "b/a.json", begin, end); });
}

TEST(GrowingJson, IsCompleteWhenItsWriterIsKilled) {
    const test::TemporaryFolder folder;
    std::size_t most = 0;
    for (int round = 0; round < 40; ++round) {
        const pid_t writer = fork();
        if (writer == 0) {
            GrowingJson file(folder / "a.json", begin, end);
            for (std::string members = ",1";; members += members.size() < 20000 ? members : "") {
                file.append(members, end);
                usleep(200);
            }
        }
        usleep(static_cast<useconds_t>(1000 + 997 * round));
        kill(writer, SIGKILL);
        waitpid(writer, nullptr, 0);
        if (std::filesystem::exists(folder / "a.json")) {
            most = std::max(most, read_json(folder / "a.json")["all"].size());
        }
    }
    EXPECT_GT(most, 10000U);
}

TEST(GrowingJsonDeathTest, FullDiskIsAnError) {
    const test::TemporaryFolder folder;
    EXPECT_EXIT(test::exit_with_file_size_limit(100,
                                                [&] {
                                                    GrowingJson file(folder / "a.json", begin, end);
                                                    file.append(std::string(200, ' '), end);
                                                }),
                testing::ExitedWithCode(static_cast<int>(core::ExitCode::out_of_resources)), "");
}

}  // namespace
}  // namespace moesaic::io
