// Everything that a safetensors file or an index can get wrong.
#include <random>

#include "io/safetensors.hpp"
#include "safetensors_support.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using test::expect_error;
using test::safetensors_bytes;
using test::TemporaryFolder;

/// A header with one tensor "t" of the given members and, if it has any, `more` members of the header itself.
std::string one_tensor(std::string_view dtype, std::string_view shape, std::string_view offsets,
                       std::string_view more = "") {
    return fmt::format(R"({{"t":{{"dtype":"{}","shape":{},"data_offsets":{}}}{}}})", dtype, shape, offsets, more);
}

std::string two_tensors(std::string_view first, std::string_view second) {
    return one_tensor("F32", "[2]", first,
                      fmt::format(R"(,"u":{{"dtype":"F32","shape":[1],"data_offsets":{}}})", second));
}

struct BadFile {
    const char* what;
    std::string bytes;
    std::string message;
};

std::vector<BadFile> bad_files() {
    const std::string data(8, '\0');
    const auto file = [&](const std::string& header) { return safetensors_bytes(header, data); };
    const auto with_length = [&](std::uint64_t length) {
        std::string bytes = file(one_tensor("F32", "[2]", "[0,8]"));
        std::memcpy(bytes.data(), &length, sizeof(length));
        return bytes;
    };
    return {
        {"empty file", "", "is truncated (it has 0 bytes"},
        {"no full length", std::string(7, '\0'), "is truncated (it has 7 bytes"},
        {"no header", std::string(8, '\0'), "doesn't start with an object"},
        {"length beyond the file", with_length(1000), "its header needs 1008 bytes and the file has"},
        {"length beyond the format", with_length(100'000'001), "its header would have 100000001 bytes"},
        {"length that overflows", with_length(~std::uint64_t{0} - 4), "the format allows 100000000"},
        {"leading space", file(fmt::format(" {}", one_tensor("F32", "[2]", "[0,8]"))), "doesn't start with an object"},
        {"array as header", file("[1]"), "doesn't start with an object"},
        {"HTML page", std::string("<!DOCTYPE html><html>not found</html>"), "is not a safetensors file"},
        {"broken JSON", file(one_tensor("F32", "[2", "[0,8]")), "can't parse JSON"},
        {"NUL after JSON", file(one_tensor("F32", "[2]", "[0,8]") + '\0'), "can't parse JSON"},
        {"tensor twice", file(one_tensor("F32", "[2]", "[0,8]", R"(,"t":{})")), "the key 't' appears twice"},
        {"deep nesting", file(one_tensor("F32", "[[[2]]]", "[0,8]")), "nested more than 4 deep"},
        {"tensor is no object", file(R"({"t":3})"), "tensor 't' has no key 'dtype' (an object is expected"},
        {"no dtype", file(R"({"t":{"shape":[2],"data_offsets":[0,8]}})"), "tensor 't' has no key 'dtype'"},
        {"no shape", file(R"({"t":{"dtype":"F32","data_offsets":[0,8]}})"), "tensor 't' has no key 'shape'"},
        {"no offsets", file(R"({"t":{"dtype":"F32","shape":[2]}})"), "tensor 't' has no key 'data_offsets'"},
        {"unknown dtype", file(one_tensor("F99", "[2]", "[0,8]")), "unknown dtype 'F99'"},
        {"dtype is a number", file(R"({"t":{"dtype":3,"shape":[2],"data_offsets":[0,8]}})"), "can't use key 'dtype'"},
        {"control characters", file(one_tensor("F\\u001b[31m", "[2]", "[0,8]")), "unknown dtype 'F\\x1b[31m'"},
        {"shape is a number", file(one_tensor("F32", "2", "[0,8]")), "can't use key 'shape'"},
        {"fractional extent", file(one_tensor("F32", "[2.0]", "[0,8]")), "can't use key 'shape[0]'"},
        {"negative extent", file(one_tensor("F32", "[-2]", "[0,8]")), "invalid shape"},
        {"two negative extents", file(one_tensor("F32", "[-1,-2]", "[0,8]")), "invalid shape"},
        {"huge extent", file(one_tensor("F32", "[9223372036854775808]", "[0,8]")), "can't use key 'shape[0]'"},
        {"shape overflows to 2", file(one_tensor("F32", "[4294967296,4294967296,2]", "[0,8]")), "invalid shape"},
        {"bytes overflow", file(one_tensor("F32", "[2305843009213693952]", "[0,8]")), "invalid shape"},
        {"shape too small", file(one_tensor("F32", "[1]", "[0,8]")),
         "has 8 bytes of data (its shape and dtype F32 need 4)"},
        {"shape too large", file(one_tensor("F64", "[2]", "[0,8]")),
         "has 8 bytes of data (its shape and dtype F64 need 16)"},
        {"half a byte", file(one_tensor("F4", "[15]", "[0,8]")), "has 8 bytes of data"},
        {"one offset", file(one_tensor("F32", "[2]", "[0]")), "invalid data_offsets"},
        {"three offsets", file(one_tensor("F32", "[2]", "[0,8,8]")), "invalid data_offsets"},
        {"descending offsets", file(one_tensor("F32", "[2]", "[8,0]")), "invalid data_offsets"},
        {"negative offset", file(one_tensor("F32", "[2]", "[-8,0]")), "invalid data_offsets"},
        {"offset is text", file(one_tensor("F32", "[2]", R"(["0",8])")), "can't use key 'data_offsets[0]'"},
        {"hole at the start", safetensors_bytes(one_tensor("F32", "[2]", "[4,12]"), data + data),
         "tensor 't' begins at byte 4 of the data (the one before ends at 0: there is a hole)"},
        {"hole in the middle", safetensors_bytes(two_tensors("[0,8]", "[12,16]"), data + data),
         "tensor 'u' begins at byte 12 of the data (the one before ends at 8: there is a hole)"},
        {"overlap", file(two_tensors("[0,8]", "[4,8]")),
         "tensor 'u' begins at byte 4 of the data (the one before ends at 8: they overlap)"},
        {"same bytes twice",
         file(one_tensor("F32", "[2]", "[0,8]", R"(,"u":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})")),
         "they overlap"},
        {"offset near 2^63", file(one_tensor("F32", "[2]", "[9223372036854775799,9223372036854775807]")),
         "there is a hole"},
        {"data missing", safetensors_bytes(one_tensor("F32", "[2]", "[0,8]"), ""),
         "is truncated (its header describes"},
        {"data left over", file(one_tensor("F32", "[1]", "[0,4]")), "is too long (its header describes"},
        {"data without tensors", file("{}"), "is too long"},
        {"metadata is a text", file(one_tensor("F32", "[2]", "[0,8]", R"(,"__metadata__":"x")")), "'__metadata__'"},
        {"metadata with numbers", file(one_tensor("F32", "[2]", "[0,8]", R"(,"__metadata__":{"a":1})")),
         "can't use key 'a'"},
    };
}

TEST(SafetensorsFormat, MalformedFilesAreRefused) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "bad.safetensors";
    for (const BadFile& bad : bad_files()) {
        SCOPED_TRACE(bad.what);
        test::write_bytes(file, bad.bytes);
        expect_error(ExitCode::corrupt_input, bad.message, [&] { (void)TensorSource::open_file(file); });
        expect_error(ExitCode::corrupt_input, file.string(), [&] { (void)TensorSource::open_file(file); });
    }
}

TEST(SafetensorsFormat, UnusualButValidFilesAreRead) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    test::write_bytes(file, safetensors_bytes("{}", ""));
    EXPECT_TRUE(TensorSource::open_file(file).names().empty());

    test::write_bytes(file, safetensors_bytes(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                                              R"("p":{"dtype":"F4","shape":[2,3],"data_offsets":[4,7]},)"
                                              R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                              R"("__metadata__":{"format":"pt"}}       )",
                                              std::string("\0\0\x80\x3f\1\2\3", 7)));
    const TensorSource source = TensorSource::open_file(file);
    EXPECT_EQ(source.names(), (std::vector<std::string>{"e", "p", "s"}));
    EXPECT_EQ(source.metadata().at("format"), "pt");
    EXPECT_EQ(source.info("e").rows(), 0);
    EXPECT_EQ(source.info("e").cols(), 7);
    EXPECT_EQ(source.info("p").dtype, DType::f4);
    float one = 0;
    source.read("s", core::MatrixView<float>(&one, 1, 1));
    EXPECT_EQ(one, 1.0F);
    source.read("e", core::MatrixView<float>(nullptr, 0, 7));
}

TEST(SafetensorsFormat, DTypesOfTheFormat) {
    EXPECT_EQ(dtype_name(DType::f8_e4m3), "F8_E4M3");
    EXPECT_EQ(dtype_bits(DType::f8_e4m3), 8);
    EXPECT_EQ(dtype_name(DType::boolean), "BOOL");
    EXPECT_EQ(dtype_bits(DType::c64), 64);
    EXPECT_EQ(dtype_bits(DType::f6_e3m2), 6);
}

TEST(SafetensorsFormat, EveryTruncationIsNoticed) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "cut.safetensors";
    const std::string whole = safetensors_bytes(two_tensors("[0,8]", "[8,12]"), std::string(12, 'x'));
    for (std::size_t length = 0; length < whole.size(); ++length) {
        test::write_bytes(file, std::string_view(whole).substr(0, length));
        expect_error(ExitCode::corrupt_input, "cut.safetensors is truncated",
                     [&] { (void)TensorSource::open_file(file); });
    }
    test::write_bytes(file, whole + 'x');
    expect_error(ExitCode::corrupt_input, "cut.safetensors is too long", [&] { (void)TensorSource::open_file(file); });
}

TEST(SafetensorsFormat, FileThatShrinksWhileOpenIsNoticed) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    test::write_bytes(file, safetensors_bytes(one_tensor("F32", "[2]", "[0,8]"), std::string(8, 'x')));
    const TensorSource source = TensorSource::open_file(file);
    std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
    float values[2];
    expect_error(ExitCode::corrupt_input, "a.safetensors is shorter",
                 [&] { source.read("t", core::MatrixView<float>(values, 1, 2)); });
}

TEST(SafetensorsFormat, RandomDamageNeverDoesMoreThanThrow) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "a.safetensors";
    const std::string whole = safetensors_bytes(two_tensors("[0,8]", "[8,12]"), std::string(12, '\0'));
    std::mt19937 random(7);
    int refused = 0;
    for (int round = 0; round < 1500; ++round) {
        std::string bytes = whole;
        for (unsigned flips = 1 + random() % 4; flips > 0; --flips) {
            bytes[random() % (bytes.size() - 12)] = static_cast<char>(random());
        }
        test::write_bytes(file, bytes);
        try {
            const TensorSource source = TensorSource::open_file(file);
            for (const std::string& name : source.names()) {
                const TensorInfo& info = source.info(name);
                ASSERT_LE(info.offset + info.bytes, whole.size());
                std::vector<float> values(info.bytes);
                source.read(name, core::MatrixView<float>(values.data(), info.rows(), info.cols()));
            }
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), ExitCode::corrupt_input) << error.what();
            ++refused;
        }
    }
    EXPECT_GT(refused, 1000);
}

/// A model folder with two shards: "a" and "b" in the first, "c" in the second.
class SafetensorsIndex : public testing::Test {
protected:
    void SetUp() override {
        write_shard("one.safetensors", {"a", "b"});
        write_shard("two.safetensors", {"c"});
        write_index(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})");
    }
    void write_shard(const std::string& name, const std::vector<std::string>& tensors) {
        std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            header += fmt::format(R"(,"{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}})", tensors[i], 4 * i,
                                  4 * i + 4);
        }
        test::write_bytes(folder_ / name, safetensors_bytes(header + '}', std::string(4 * tensors.size(), '\0')));
    }
    void write_index(std::string_view weight_map) {
        test::write_bytes(folder_ / "model.safetensors.index.json",
                          fmt::format(R"({{"metadata":{{"total_size":12}},"weight_map":{}}})", weight_map));
    }
    void expect_refused(ExitCode code, std::string_view message) {
        expect_error(code, message, [&] { (void)TensorSource::open_model(folder_.path()); });
    }

    TemporaryFolder folder_;
};

TEST_F(SafetensorsIndex, FindsTensorsInTheirShards) {
    const TensorSource source = TensorSource::open_model(folder_.path());
    EXPECT_EQ(source.names(), (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_EQ(source.info("b").file, folder_ / "one.safetensors");
    EXPECT_EQ(source.info("c").file, folder_ / "two.safetensors");
    EXPECT_EQ(source.metadata().at("format"), "pt");
}

TEST_F(SafetensorsIndex, ShardsMayBeLinksAsInTheCacheOfHuggingFace) {
    std::filesystem::create_directory(folder_ / "snapshot");
    for (const char* name : {"one.safetensors", "two.safetensors", "model.safetensors.index.json"}) {
        std::filesystem::create_symlink(folder_ / name, folder_ / "snapshot" / name);
    }
    EXPECT_EQ(TensorSource::open_model(folder_ / "snapshot").names().size(), 3U);
}

TEST_F(SafetensorsIndex, ShardsOutsideOfTheFolderAreRefused) {
    for (const char* name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", ".safetensors",
                             "one.bin", "a\\\\one.safetensors", "one.safetensors\\u0000.safetensors"}) {
        SCOPED_TRACE(name);
        write_index(fmt::format(R"({{"a":"{}"}})", name));
        expect_refused(ExitCode::corrupt_input, "names the shard '");
    }
}

TEST_F(SafetensorsIndex, IndexAndShardsMustAgree) {
    write_index(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors"})");
    expect_refused(ExitCode::corrupt_input, "says that tensor 'd' is in two.safetensors (it is not there)");
    write_index(R"({"a":"two.safetensors","b":"one.safetensors","c":"two.safetensors"})");
    expect_refused(ExitCode::corrupt_input, "says that tensor 'a' is in two.safetensors");
    write_index(R"({"a":"one.safetensors","c":"three.safetensors"})");
    expect_refused(ExitCode::corrupt_input, "three.safetensors is missing");
    write_index("{}");
    expect_refused(ExitCode::corrupt_input, "names no tensors");
    write_index("[1]");
    expect_refused(ExitCode::corrupt_input, "names no tensors");
    write_index(R"({"a":3})");
    expect_refused(ExitCode::corrupt_input, "can't use key 'a'");
}

TEST_F(SafetensorsIndex, TensorInTwoShardsIsRefused) {
    write_shard("two.safetensors", {"c", "a"});
    expect_refused(ExitCode::corrupt_input, "tensor 'a' is stored twice");
}

TEST_F(SafetensorsIndex, TruncatedShardIsNamed) {
    std::filesystem::resize_file(folder_ / "two.safetensors",
                                 std::filesystem::file_size(folder_ / "two.safetensors") - 1);
    expect_refused(ExitCode::corrupt_input, "two.safetensors is truncated");
}

TEST_F(SafetensorsIndex, ShardMustBeARegularFile) {
    std::filesystem::remove(folder_ / "two.safetensors");
    std::filesystem::create_directory(folder_ / "two.safetensors");
    expect_refused(ExitCode::usage, "not a regular file");
}

TEST_F(SafetensorsIndex, SingleFileComesFirst) {
    write_shard("model.safetensors", {"x"});
    EXPECT_EQ(TensorSource::open_model(folder_.path()).names(), (std::vector<std::string>{"x"}));
}

TEST_F(SafetensorsIndex, FolderWithoutWeightsIsAUsageError) {
    std::filesystem::remove(folder_ / "model.safetensors.index.json");
    expect_refused(ExitCode::usage, "neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace
}  // namespace moesaic::io
