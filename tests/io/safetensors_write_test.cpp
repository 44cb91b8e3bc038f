#include <numeric>

#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "safetensors_support.hpp"

namespace moesaic::io {
namespace {

using core::bf16;
using core::ExitCode;
using core::MatrixView;
using test::expect_error;
using test::TemporaryFolder;

const std::vector<TensorToWrite> tensors = {
    {"b", {3, 5}}, {"a", {7}}, {"empty", {0, 4}}, {"scalar", {}}, {"c", {2, 2, 2}}};

template <class Scalar>
void fill(std::size_t index, std::span<Scalar> data) {
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = Scalar(static_cast<float>(100 * index + i));
    }
}

template <class Scalar>
void check_round_trip(DType dtype) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    write_safetensors<Scalar>(file, tensors, {{"format", "pt"}, {"note", "\"quoted\" \u00e9"}}, fill<Scalar>);
    EXPECT_EQ(folder.entries(), 1);
    const TensorSource source = TensorSource::open_file(file);
    EXPECT_EQ(source.names(), (std::vector<std::string>{"a", "b", "c", "empty", "scalar"}));
    EXPECT_EQ(source.metadata().at("note"), "\"quoted\" \u00e9");
    for (std::size_t index = 0; index < tensors.size(); ++index) {
        const TensorInfo& info = source.info(tensors[index].name);
        EXPECT_EQ(info.shape, tensors[index].shape);
        EXPECT_EQ(info.dtype, dtype);
        std::vector<float> values(info.bytes / sizeof(Scalar));
        std::vector<Scalar> expected(values.size());
        source.read(tensors[index].name, MatrixView<float>(values.data(), info.rows(), info.cols()));
        fill<Scalar>(index, expected);
        for (std::size_t i = 0; i < values.size(); ++i) {
            EXPECT_EQ(values[i], static_cast<float>(expected[i]));
        }
    }
    // The data begins at a multiple of 8 bytes.
    EXPECT_EQ(source.info("b").offset % 8, 0U);
}

TEST(SafetensorsWrite, RoundTrip) {
    check_round_trip<float>(DType::f32);
    check_round_trip<bf16>(DType::bf16);
}

TEST(SafetensorsWrite, HeaderIsPaddedJsonWithoutMetadataUnlessGiven) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    for (const std::size_t length : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U}) {
        write_safetensors<float>(file, std::vector<TensorToWrite>{{std::string(length, 'n'), {2}}}, {}, fill<float>);
        const std::string bytes = test::read_bytes(file);
        std::uint64_t header_length = 0;
        std::memcpy(&header_length, bytes.data(), sizeof(header_length));
        EXPECT_EQ(header_length % 8, 0U);
        EXPECT_EQ(bytes.size(), 8 + header_length + 8);
        const auto header = parse_json(std::string_view(bytes).substr(8, header_length), "header");
        EXPECT_EQ(header.size(), 1U);
        EXPECT_EQ(header.begin()->at("data_offsets"), nlohmann::json({0, 8}));
    }
}

TEST(SafetensorsWrite, InvalidTensorsAreRefused) {
    const TemporaryFolder folder;
    const auto write = [&](std::vector<TensorToWrite> list) {
        return [&folder, list = std::move(list)] {
            write_safetensors<float>(folder / "a.safetensors", list, {}, fill<float>);
        };
    };
    expect_error(ExitCode::runtime_failure, "tensor 'x'", write({{"x", {1}}, {"x", {1}}}));
    expect_error(ExitCode::runtime_failure, "tensor 'x'", write({{"x", {-1}}}));
    expect_error(ExitCode::runtime_failure, "tensor 'x'", write({{"x", {index_t{1} << 40, index_t{1} << 40}}}));
    expect_error(ExitCode::runtime_failure, "tensor '__metadata__'", write({{"__metadata__", {1}}}));
    EXPECT_EQ(folder.entries(), 0);
}

TEST(SafetensorsWrite, FailureOfTheProviderKeepsTheOldFile) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    test::write_bytes(file, "old");
    const auto provide = [](std::size_t /*index*/, std::span<float> /*data*/) { throw std::runtime_error("stop"); };
    EXPECT_THROW(write_safetensors<float>(file, tensors, {}, provide), std::runtime_error);
    EXPECT_EQ(test::read_bytes(file), "old");
    EXPECT_EQ(folder.entries(), 1);
}

TEST(SafetensorsWrite, MissingFolderIsAUsageError) {
    const TemporaryFolder folder;
    expect_error(ExitCode::usage, "No such file",
                 [&] { write_safetensors<float>(folder / "x/a.safetensors", tensors, {}, fill<float>); });
}

TEST(SafetensorsWriteDeathTest, FullDiskKeepsTheOldFile) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    test::write_bytes(file, "old");
    const std::vector<TensorToWrite> large = {{"a", {1000, 1000}}, {"b", {1000, 1000}}};
    const auto write = [&] { write_safetensors<bf16>(file, large, {}, fill<bf16>); };
    for (const rlim_t limit : {rlim_t{0}, rlim_t{100}, rlim_t{1'000'000}, rlim_t{3'999'999}}) {
        EXPECT_EXIT(test::exit_with_file_size_limit(limit, write), testing::ExitedWithCode(5), "");
        EXPECT_EQ(test::read_bytes(file), "old");
        EXPECT_EQ(folder.entries(), 1);
    }
}

}  // namespace
}  // namespace moesaic::io
