#include "io/checkpoint.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "io/hdf5_version.hpp"
#include "support.hpp"

// HDF5 1.10 loses memory of its own when it refuses a damaged file, which the leak sanitizer is not to report.
extern "C" const char* __lsan_default_suppressions();   // NOLINT(bugprone-reserved-identifier)
extern "C" const char* __lsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
    return "leak:libhdf5";
}

namespace moesaic::io {
namespace {

using core::ExitCode;
using nlohmann::json;
using test::expect_error;
using test::TemporaryFolder;

std::vector<float> counting(std::size_t size) {
    std::vector<float> values(size);
    std::iota(values.begin(), values.end(), 1.0F);
    return values;
}

/// A checkpoint with the datasets "lora/x/A" [5, 7], "lora/x/B" [700, 1100] (several chunks) and "empty" [0, 3].
void write_checkpoint(const std::filesystem::path& file, const json& header) {
    CheckpointWriter writer(file, header);
    writer.write("lora/x/A", std::vector<index_t>{5, 7}, counting(35));
    writer.write("lora/x/B", std::vector<index_t>{700, 1100}, counting(770'000));
    writer.write("empty", std::vector<index_t>{0, 3}, {});
    writer.commit();
}

TEST(Checkpoint, RoundTrip) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "sub/folder/a.h5";
    const json header = {{"step", 42}, {"text", "\u00e9\n\"x\""}, {"state", {1, 18446744073709551615U, -3, 0.1}}};
    write_checkpoint(file, header);
    EXPECT_FALSE(std::filesystem::exists(file.string() + ".partial"));

    const CheckpointReader reader(file);
    EXPECT_EQ(reader.header(), header);
    EXPECT_EQ(reader.datasets(), (std::vector<std::string>{"empty", "lora/x/A", "lora/x/B"}));
    EXPECT_EQ(reader.shape("lora/x/B"), (std::vector<index_t>{700, 1100}));
    EXPECT_EQ(reader.shape("empty"), (std::vector<index_t>{0, 3}));
    EXPECT_TRUE(reader.contains("lora/x/A"));
    EXPECT_FALSE(reader.contains("lora/x"));
    std::vector<float> values(770'000);
    reader.read("lora/x/B", values);
    EXPECT_EQ(values, counting(770'000));
    values.resize(35);
    reader.read("lora/x/A", values);
    EXPECT_EQ(values, counting(35));
    reader.read("empty", {});
}

TEST(Checkpoint, AllBitPatternsSurvive) {
    const TemporaryFolder folder;
    std::vector<float> values;
    for (const std::uint32_t bits : {0U, 0x80000000U, 1U, 0x7f800000U, 0xff800000U, 0x7fc12345U, 0x007fffffU}) {
        values.push_back(std::bit_cast<float>(bits));
    }
    CheckpointWriter writer(folder / "a.h5", json::object());
    writer.write("x", std::vector<index_t>{std::ssize(values)}, values);
    writer.commit();
    std::vector<float> back(values.size());
    CheckpointReader(folder / "a.h5").read("x", back);
    for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(std::bit_cast<std::uint32_t>(values[i]), std::bit_cast<std::uint32_t>(back[i]));
    }
}

TEST(Checkpoint, ShapesOfAllKinds) {
    const TemporaryFolder folder;
    const std::vector<std::vector<index_t>> shapes = {{1},          {300'000},    {3, 300'000}, {300'000, 3},
                                                      {2, 3, 4, 5}, {1, 262'145}, {513, 512},   {7, 1, 100'003}};
    CheckpointWriter writer(folder / "a.h5", json::object());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        const index_t count = std::accumulate(shapes[i].begin(), shapes[i].end(), index_t{1}, std::multiplies<>());
        writer.write(fmt::format("group/{}", i), shapes[i], counting(static_cast<std::size_t>(count)));
    }
    writer.commit();
    const CheckpointReader reader(folder / "a.h5");
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        const std::string name = fmt::format("group/{}", i);
        EXPECT_EQ(reader.shape(name), shapes[i]);
        const index_t count = std::accumulate(shapes[i].begin(), shapes[i].end(), index_t{1}, std::multiplies<>());
        std::vector<float> values(static_cast<std::size_t>(count));
        reader.read(name, values);
        EXPECT_EQ(values, counting(values.size())) << name;
    }
}

TEST(Checkpoint, LargeHeader) {
    const TemporaryFolder folder;
    std::string text(3'000'000, 'x');
    const json header = {{"text", text}};
    CheckpointWriter(folder / "a.h5", header).commit();
    EXPECT_EQ(CheckpointReader(folder / "a.h5").header(), header);
    text.resize(17'000'000, 'x');
    expect_error(ExitCode::runtime_failure, "its header has", [&] {
        CheckpointWriter(folder / "b.h5", {{"text", text}});
    });
    EXPECT_EQ(folder.entries(), 1);
}

TEST(Checkpoint, WithoutCommitTheOldFileStays) {
    const TemporaryFolder folder;
    write_checkpoint(folder / "a.h5", {{"step", 1}});
    const std::string before = test::read_bytes(folder / "a.h5");
    {
        CheckpointWriter writer(folder / "a.h5", {{"step", 2}});
        writer.write("x", std::vector<index_t>{2}, std::vector<float>{1, 2});
        EXPECT_EQ(folder.entries(), 2);
    }
    EXPECT_EQ(folder.entries(), 1);
    EXPECT_EQ(test::read_bytes(folder / "a.h5"), before);
    write_checkpoint(folder / "a.h5", {{"step", 3}});
    EXPECT_EQ(CheckpointReader(folder / "a.h5").header().at("step"), 3);
}

TEST(Checkpoint, WritesOverTheLeftoverOfACrash) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "a.h5.partial", "half a file");
    write_checkpoint(folder / "a.h5", {{"step", 1}});
    EXPECT_EQ(folder.entries(), 1);
}

TEST(Checkpoint, MistakesOfTheCallerAreRefused) {
    const TemporaryFolder folder;
    CheckpointWriter writer(folder / "a.h5", json::object());
    const std::vector<float> two = {1, 2};
    const auto write = [&](const std::string& name, std::vector<index_t> shape) {
        return [&, name, shape = std::move(shape)] { writer.write(name, shape, two); };
    };
    expect_error(ExitCode::runtime_failure, "dataset 'x' has 2 values", write("x", {3}));
    expect_error(ExitCode::runtime_failure, "dataset 'x' has 2 values", write("x", {-1, -2}));
    expect_error(ExitCode::runtime_failure, "dataset 'x' has 2 values", write("x", {}));
    writer.write("x", std::vector<index_t>{2}, two);
    expect_error(ExitCode::runtime_failure, "can't write", write("x", {2}));
    expect_error(ExitCode::runtime_failure, "can't write", write("x/y", {2}));
    writer.commit();
    const CheckpointReader reader(folder / "a.h5");
    std::vector<float> out(3);
    expect_error(ExitCode::corrupt_input, "dataset 'x' has 2 elements and 3 are expected",
                 [&] { reader.read("x", out); });
    expect_error(ExitCode::corrupt_input, "it has no dataset 'y'", [&] { reader.read("y", out); });
    expect_error(ExitCode::corrupt_input, "it has no dataset 'y'", [&] { (void)reader.shape("y"); });
}

TEST(Checkpoint, PathsThatCannotBeAreUsageErrors) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "file", "x");
    expect_error(ExitCode::usage, "Not a directory", [&] { CheckpointWriter(folder / "file/a.h5", json::object()); });
    expect_error(ExitCode::usage, "No such file", [&] { CheckpointReader unused(folder / "a.h5"); });
    expect_error(ExitCode::usage, "not a regular file", [&] { CheckpointReader unused(folder.path()); });
}

TEST(Checkpoint, NamesTheLibrary) {
    EXPECT_TRUE(hdf5_version().starts_with("1."));
}

/// Reads everything that a file claims to hold.
void read_all(const std::filesystem::path& file) {
    const CheckpointReader reader(file);
    for (const std::string& name : reader.datasets()) {
        const std::vector<index_t> shape = reader.shape(name);
        std::vector<float> values(
            static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), index_t{1}, std::multiplies<>())));
        reader.read(name, values);
    }
}

TEST(Checkpoint, DamagedValuesAreFoundByTheirChecksum) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.h5";
    write_checkpoint(file, {{"step", 1}});
    std::string bytes = test::read_bytes(file);
    const float value = 123'456.0F;
    const std::size_t position = bytes.find(std::string_view(std::bit_cast<std::array<char, 4>>(value).data(), 4));
    ASSERT_NE(position, std::string::npos);
    bytes[position] = static_cast<char>(bytes[position] ^ 1);
    test::write_bytes(file, bytes);
    expect_error(ExitCode::corrupt_input, "a.h5 (lora/x/B: ", [&] { read_all(file); });
    std::vector<float> values(35);
    EXPECT_NO_THROW(CheckpointReader(file).read("lora/x/A", values));
}

TEST(Checkpoint, TruncatedFilesAreRefused) {
    const TemporaryFolder folder;
    write_checkpoint(folder / "a.h5", {{"step", 1}});
    const std::string bytes = test::read_bytes(folder / "a.h5");
    const std::filesystem::path cut = folder / "cut.h5";
    for (std::size_t length = 0; length < bytes.size(); length += length < 100 ? 1 : length / 3) {
        SCOPED_TRACE(length);
        test::write_bytes(cut, std::string_view(bytes).substr(0, length));
        expect_error(ExitCode::corrupt_input, "cut.h5", [&] { read_all(cut); });
    }
    test::write_bytes(cut, std::string_view(bytes).substr(0, bytes.size() - 1));
    expect_error(ExitCode::corrupt_input, "cut.h5", [&] { read_all(cut); });
}

TEST(Checkpoint, FilesOfOtherKindsAreRefused) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "a.h5", std::string(5000, 'x'));
    expect_error(ExitCode::corrupt_input, "it is not an HDF5 file", [&] { read_all(folder / "a.h5"); });
}

TEST(Checkpoint, RandomDamageNeverDoesMoreThanThrow) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.h5";
    CheckpointWriter writer(file, {{"step", 7}});
    writer.write("lora/x/A", std::vector<index_t>{5, 7}, counting(35));
    writer.write("lora/x/B", std::vector<index_t>{9, 11}, counting(99));
    writer.commit();
    const std::string whole = test::read_bytes(file);
    std::mt19937 random(11);
    int refused = 0;
    for (int round = 0; round < 600; ++round) {
        std::string bytes = whole;
        for (unsigned flips = 1 + random() % 8; flips > 0; --flips) {
            bytes[random() % bytes.size()] ^= static_cast<char>(1U << (random() % 8));
        }
        test::write_bytes(file, bytes);
        try {
            read_all(file);
        } catch (const core::Error& error) {
            EXPECT_TRUE(error.code() == ExitCode::corrupt_input || error.code() == ExitCode::usage) << error.what();
            ++refused;
        }
    }
    EXPECT_GT(refused, 100);
}

TEST(CheckpointDeathTest, FullDiskKeepsTheOldFile) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.h5";
    write_checkpoint(file, {{"step", 1}});
    const std::string before = test::read_bytes(file);
    // The limits hit the creation, the first dataset, the middle of a dataset and the last bytes.
    for (const rlim_t limit : {rlim_t{0}, rlim_t{100}, rlim_t{3000}, rlim_t{1'500'000}, rlim_t{before.size() - 1}}) {
        EXPECT_EXIT(test::exit_with_file_size_limit(limit,
                                                    [&] {
                                                        write_checkpoint(file, {{"step", 2}});
                                                    }),
                    testing::ExitedWithCode(5), "")
            << limit;
        EXPECT_EQ(test::read_bytes(file), before);
        EXPECT_EQ(folder.entries(), 1);
    }
}

TEST(CheckpointDeathTest, WritingGoesOnAfterAFullDisk) {
    const TemporaryFolder folder;
    const auto fail_then_write = [&] {
        for (int attempt = 0; attempt < 3; ++attempt) {
            expect_error(ExitCode::out_of_resources, "File too large", [&] {
                write_checkpoint(folder / "a.h5", {{"step", 1}});
            });
        }
        CheckpointWriter writer(folder / "a.h5", {{"step", 2}});
        writer.write("x", std::vector<index_t>{2}, std::vector<float>{1, 2});
        writer.commit();
        read_all(folder / "a.h5");
    };
    EXPECT_EXIT(test::exit_with_file_size_limit(1'500'000, fail_then_write), testing::ExitedWithCode(0), "");
    EXPECT_EQ(folder.entries(), 1);
    EXPECT_EQ(CheckpointReader(folder / "a.h5").header().at("step"), 2);
}

}  // namespace
}  // namespace moesaic::io
