#include <nlohmann/json.hpp>

#include "io/checkpoint.hpp"
#include "support.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using test::expect_error;
using test::TemporaryFolder;

void write_step(const CheckpointFolder& folder, std::int64_t step) {
    CheckpointWriter(folder.file_for_step(step), {{"step", step}}).commit();
}

TEST(CheckpointFolder, NamesFilesByStep) {
    const CheckpointFolder folder("x");
    EXPECT_EQ(folder.file_for_step(42), "x/step-00000042.h5");
    EXPECT_EQ(folder.file_for_step(1'234'567'890), "x/step-1234567890.h5");
    expect_error(ExitCode::runtime_failure, "its step is -1", [&] { (void)folder.file_for_step(-1); });
}

TEST(CheckpointFolder, EmptyOrMissingFolderHasNoLatest) {
    const TemporaryFolder temporary;
    EXPECT_EQ(CheckpointFolder(temporary.path()).latest(), std::nullopt);
    EXPECT_EQ(CheckpointFolder(temporary / "missing").latest(), std::nullopt);
    EXPECT_FALSE(std::filesystem::exists(temporary / "missing"));
    test::write_bytes(temporary / "file", "x");
    expect_error(ExitCode::usage, "Not a directory", [&] { (void)CheckpointFolder(temporary / "file").latest(); });
}

TEST(CheckpointFolder, KeepsTheNewest) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary / "checkpoints");
    for (const std::int64_t step : {5, 10, 15, 20}) {
        write_step(folder, step);
        folder.publish(step, 2);
        EXPECT_EQ(folder.latest(), folder.file_for_step(step));
    }
    EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{15, 20}));
    EXPECT_EQ(test::read_bytes(folder.path() / "latest"), "step-00000020.h5\n");
}

TEST(CheckpointFolder, TheLatestStaysEvenIfOthersAreNewer) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary.path());
    for (const std::int64_t step : {100'000'000, 9}) {
        write_step(folder, step);
    }
    folder.publish(9, 1);
    EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{9, 100'000'000}));
    EXPECT_EQ(folder.latest(), folder.file_for_step(9));
}

TEST(CheckpointFolder, LaterStepsOfAnOlderRunStayAndTakeNoPlace) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary.path());
    for (const std::int64_t step : {100'000'000, 30, 9, 6, 3}) {
        write_step(folder, step);
    }
    folder.publish(9, 2);
    EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{6, 9, 30, 100'000'000}));
}

TEST(CheckpointFolder, FallsBackToTheNewestFile) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary.path());
    for (const std::int64_t step : {3, 20, 100'000'000}) {
        write_step(folder, step);
    }
    const auto newest = folder.file_for_step(100'000'000);
    EXPECT_EQ(folder.latest(), newest);
    for (const std::string content : {"step-00000004.h5\n", "../step-00000003.h5", "", "step-3.h5", "/etc/passwd\n"}) {
        test::write_bytes(temporary / "latest", content);
        EXPECT_EQ(folder.latest(), newest) << content;
    }
    test::write_bytes(temporary / "latest", std::string(10'000, 'x'));
    EXPECT_EQ(folder.latest(), newest);
    test::write_bytes(temporary / "latest", "step-00000020.h5");
    EXPECT_EQ(folder.latest(), folder.file_for_step(20));
}

TEST(CheckpointFolder, RemovesLeftoversButNothingElse) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary.path());
    for (const char* name : {"step-00000001.h5.partial", "step-1.h5", "step-x.h5", "step-.h5", "notes.txt",
                             "latest.partial", "step-99999999999999999999.h5", "other.partial"}) {
        test::write_bytes(temporary / name, "x");
    }
    std::filesystem::create_directory(temporary / "step-00000007.h5");
    write_step(folder, 2);
    (void)folder.latest();
    EXPECT_TRUE(std::filesystem::exists(temporary / "step-00000001.h5.partial"));
    folder.publish(2, 1);
    EXPECT_FALSE(std::filesystem::exists(temporary / "step-00000001.h5.partial"));
    EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{2}));
    EXPECT_EQ(temporary.entries(), 9);  // six strangers, the folder, the checkpoint and "latest"
}

TEST(CheckpointFolder, MistakesAreRefused) {
    const TemporaryFolder temporary;
    const CheckpointFolder folder(temporary.path());
    write_step(folder, 1);
    expect_error(ExitCode::runtime_failure, "there is no such file", [&] { folder.publish(2, 1); });
    expect_error(ExitCode::usage, "output.checkpoint_keep", [&] { folder.publish(1, 0); });
    EXPECT_FALSE(std::filesystem::exists(temporary / "latest"));
}

}  // namespace
}  // namespace moesaic::io
