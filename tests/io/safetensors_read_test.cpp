// Values: conversion of every number format, and blocks against whole tensors.
#include <cmath>
#include <limits>
#include <numeric>

#include "io/safetensors.hpp"
#include "io/tensor_convert.hpp"
#include "safetensors_support.hpp"

namespace moesaic::io {
namespace {

using core::bf16;
using core::ExitCode;
using core::MatrixView;
using test::bytes_of;
using test::expect_error;
using test::safetensors_bytes;
using test::TemporaryFolder;

/// A file with one tensor "t".
template <class Stored>
TensorSource make_source(const TemporaryFolder& folder, std::string_view dtype, std::span<const index_t> shape,
                         std::span<const Stored> values) {
    const std::filesystem::path file = folder / "t.safetensors";
    const std::string header = fmt::format(R"({{"t":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", dtype,
                                           fmt::join(shape, ","), values.size_bytes());
    test::write_bytes(file, safetensors_bytes(header, bytes_of(values)));
    return TensorSource::open_file(file);
}

template <class Scalar, class Stored>
std::vector<Scalar> read_as(std::string_view dtype, std::span<const Stored> values) {
    const TemporaryFolder folder;
    const index_t shape[] = {std::ssize(values)};
    const TensorSource source = make_source(folder, dtype, shape, values);
    std::vector<Scalar> result(values.size());
    source.read("t", MatrixView<Scalar>(result.data(), 1, std::ssize(values)));
    return result;
}

/// The value of a small floating point format, from its definition.
double decode(unsigned bits, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const auto mantissa_range = static_cast<double>(1 << mantissa_bits);
    const unsigned exponent = (bits >> mantissa_bits) & ((1U << exponent_bits) - 1U);
    const double fraction = (bits & ((1U << mantissa_bits) - 1U)) / mantissa_range;
    const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
    return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                         : sign * std::ldexp(1.0 + fraction, static_cast<int>(exponent) - bias);
}

bool same(double a, double b) {
    return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

TEST(SafetensorsRead, EveryF16ValueIsExact) {
    std::vector<std::uint16_t> stored(0x10000);
    std::iota(stored.begin(), stored.end(), std::uint16_t{0});
    const auto floats = read_as<float, std::uint16_t>("F16", stored);
    const auto doubles = read_as<double, std::uint16_t>("F16", stored);
    for (unsigned bits = 0; bits < stored.size(); ++bits) {
        double expected = decode(bits, 5, 10);
        if ((bits & 0x7c00U) == 0x7c00U) {
            expected = (bits & 0x3ffU) != 0 ? std::nan("") : std::copysign(HUGE_VAL, expected);
        }
        ASSERT_TRUE(same(expected, floats[bits])) << bits;
        ASSERT_TRUE(same(expected, doubles[bits])) << bits;
    }
}

TEST(SafetensorsRead, EveryF8ValueIsExactInBf16Too) {
    std::vector<std::uint8_t> stored(0x100);
    std::iota(stored.begin(), stored.end(), std::uint8_t{0});
    const auto floats = read_as<float, std::uint8_t>("F8_E4M3", stored);
    const auto narrow = read_as<bf16, std::uint8_t>("F8_E4M3", stored);
    for (unsigned bits = 0; bits < stored.size(); ++bits) {
        const double expected = (bits & 0x7fU) == 0x7fU ? std::nan("") : decode(bits, 4, 3);
        ASSERT_TRUE(same(expected, floats[bits])) << bits;
        ASSERT_TRUE(same(expected, static_cast<float>(narrow[bits]))) << bits;
    }
    EXPECT_EQ(floats[0x7e], 448.0F);
}

TEST(SafetensorsRead, EveryBf16ValueIsExactAndCopiedBitByBit) {
    std::vector<std::uint16_t> stored(0x10000);
    std::iota(stored.begin(), stored.end(), std::uint16_t{0});
    const auto floats = read_as<float, std::uint16_t>("BF16", stored);
    const auto copies = read_as<bf16, std::uint16_t>("BF16", stored);
    for (unsigned bits = 0; bits < stored.size(); ++bits) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(floats[bits]), bits << 16U);
        ASSERT_EQ(copies[bits].bits(), bits);
    }
}

TEST(SafetensorsRead, NarrowingToBf16RoundsToNearestEven) {
    constexpr float tiny = std::numeric_limits<float>::denorm_min();
    const std::vector<float> stored = {1.0F,
                                       0x1.01p0F,        // halfway: to even, down
                                       0x1.03p0F,        // halfway: to even, up
                                       0x1.010002p0F,    // above halfway
                                       0x1.fffffep127F,  // overflows
                                       -0.0F,
                                       tiny,
                                       0x1.8p-133F,  // halfway between two denormals of bf16
                                       std::numeric_limits<float>::infinity(),
                                       std::bit_cast<float>(0x7f800001U)};
    const auto narrow = read_as<bf16, float>("F32", stored);
    const float expected[] = {1.0F,  1.0F, 0x1.04p0F, 0x1.02p0F, HUGE_VALF,
                              -0.0F, 0.0F, 0x1p-132F, HUGE_VALF, std::nanf("")};
    for (std::size_t i = 0; i < stored.size(); ++i) {
        EXPECT_TRUE(same(expected[i], static_cast<float>(narrow[i]))) << i;
    }
    EXPECT_EQ((read_as<float, float>("F32", stored)[6]), tiny);
}

TEST(SafetensorsRead, F64IsRoundedOnce) {
    const std::vector<double> stored = {
        0x1.01p0 + 0x1p-40,  // above halfway by less than a float sees: rounding twice would give 1
        0x1.03p0 - 0x1p-40,  // below halfway
        0x1.01p0,            // halfway: to even
        -0x1.01p0 - 0x1p-40,
        1e300,
        -1e300,
        1e-300,
        std::nan(""),
        -HUGE_VAL,
        0x1.8p-134 + 0x1p-170,
        -0.0};
    const float expected[] = {0x1.02p0F, 0x1.02p0F,     1.0F,       -0x1.02p0F, HUGE_VALF, -HUGE_VALF,
                              0.0F,      std::nanf(""), -HUGE_VALF, 0x1p-133F,  -0.0F};
    const auto narrow = read_as<bf16, double>("F64", stored);
    for (std::size_t i = 0; i < stored.size(); ++i) {
        EXPECT_TRUE(same(expected[i], static_cast<float>(narrow[i]))) << i << ' ' << static_cast<float>(narrow[i]);
    }
    const auto doubles = read_as<double, double>("F64", stored);
    EXPECT_EQ(doubles[0], stored[0]);
    EXPECT_EQ((read_as<float, double>("F64", stored)[0]), 0x1.01p0F);
}

/// Reads every block of a tensor whose element (r, c) is r * cols + c and compares.
template <class Scalar, class Stored>
void check_blocks(std::string_view dtype, std::span<const index_t> shape, Stored (*store)(index_t)) {
    const TemporaryFolder folder;
    const index_t count = std::accumulate(shape.begin(), shape.end(), index_t{1}, std::multiplies<>());
    std::vector<Stored> values;
    for (index_t i = 0; i < count; ++i) {
        values.push_back(store(i));
    }
    const TensorSource source = make_source<Stored>(folder, dtype, shape, values);
    const index_t rows = source.info("t").rows();
    const index_t cols = source.info("t").cols();
    constexpr double untouched = -1;
    for (const index_t row : {index_t{0}, rows / 3, rows - 1}) {
        for (const index_t col : {index_t{0}, cols / 3, cols - 1}) {
            for (const index_t height : {index_t{1}, (rows - row + 1) / 2, rows - row}) {
                for (const index_t width : {index_t{1}, (cols - col + 1) / 2, cols - col}) {
                    const index_t stride = width + 3;
                    std::vector<Scalar> block(static_cast<std::size_t>(height * stride), Scalar(untouched));
                    source.read("t", MatrixView<Scalar>(block.data(), height, width, stride), row, col);
                    for (index_t i = 0; i < height * stride; ++i) {
                        const bool inside = i % stride < width;
                        const index_t index = (row + i / stride) * cols + col + i % stride;
                        const double expected =
                            inside ? static_cast<double>(Scalar(static_cast<float>(index))) : untouched;
                        ASSERT_EQ(static_cast<double>(block[static_cast<std::size_t>(i)]), expected)
                            << dtype << ' ' << row << ' ' << col << ' ' << height << ' ' << width << ' ' << i;
                    }
                }
            }
        }
    }
}

TEST(SafetensorsRead, BlocksOfSmallTensors) {
    const index_t matrix[] = {7, 9};
    const index_t cube[] = {2, 3, 4};
    const index_t vector[] = {11};
    const auto to_f32 = +[](index_t i) { return static_cast<float>(i); };
    const auto to_f64 = +[](index_t i) { return static_cast<double>(i); };
    const auto to_bf16 = +[](index_t i) { return bf16(static_cast<float>(i)); };
    for (const std::span<const index_t> shape :
         {std::span<const index_t>(matrix), std::span<const index_t>(cube), std::span<const index_t>(vector)}) {
        check_blocks<float>("F32", shape, to_f32);
        check_blocks<double>("F32", shape, to_f32);
        check_blocks<float>("F64", shape, to_f64);
        check_blocks<double>("F64", shape, to_f64);
        check_blocks<float>("BF16", shape, to_bf16);
    }
}

TEST(SafetensorsRead, BlocksWhoseRowsLieFarApart) {
    const index_t wide[] = {6, 40'000};  // the gap between rows is not read
    const auto to_f32 = +[](index_t i) { return static_cast<float>(i); };
    check_blocks<double>("F32", wide, to_f32);
    check_blocks<float>("F32", wide, to_f32);
}

TEST(SafetensorsRead, BlocksLargerThanTheScratchMemory) {
    const index_t wide[] = {2, 300'000};
    const index_t tall[] = {600, 1001};
    const auto to_f32 = +[](index_t i) { return static_cast<float>(i); };
    check_blocks<double>("F32", wide, to_f32);
    check_blocks<double>("F32", tall, to_f32);
}

TEST(SafetensorsRead, BlocksOutsideAreRefused) {
    const TemporaryFolder folder;
    const index_t shape[] = {2, 3};
    const std::vector<float> values(6);
    const TensorSource source = make_source<float>(folder, "F32", shape, values);
    std::vector<float> out(100);
    const auto read = [&](index_t rows, index_t cols, index_t row, index_t col) {
        return [&source, &out, rows, cols, row, col] {
            source.read("t", MatrixView<float>(out.data(), rows, cols), row, col);
        };
    };
    constexpr index_t most = std::numeric_limits<index_t>::max();
    const std::string_view message = "tensor 't' is too small (it is 2 x 3, ";
    expect_error(ExitCode::corrupt_input, message, read(3, 3, 0, 0));
    expect_error(ExitCode::corrupt_input, message, read(2, 4, 0, 0));
    expect_error(ExitCode::corrupt_input, message, read(2, 3, 1, 0));
    expect_error(ExitCode::corrupt_input, message, read(2, 3, 0, 1));
    expect_error(ExitCode::corrupt_input, message, read(1, 1, -1, 0));
    expect_error(ExitCode::corrupt_input, message, read(1, 1, 0, -1));
    expect_error(ExitCode::corrupt_input, message, read(1, 1, most, 0));
    expect_error(ExitCode::corrupt_input, message, read(1, 1, 0, most));
    expect_error(ExitCode::corrupt_input, message, read(0, 1, 3, 0));
    EXPECT_NO_THROW(read(0, 3, 2, 0)());
}

TEST(SafetensorsRead, BytesAreThoseOfTheFileWhateverTheType) {
    const TemporaryFolder folder;
    const index_t shape[] = {3, 5};
    std::vector<std::int32_t> values(15);
    std::iota(values.begin(), values.end(), 100);
    const TensorSource source = make_source<std::int32_t>(folder, "I32", shape, values);
    std::vector<std::int32_t> out(4);
    const auto read = [&](index_t row, index_t byte, index_t rows, index_t bytes) {
        return [&source, &out, row, byte, rows, bytes] {
            source.read_bytes("t", MatrixView<std::byte>(reinterpret_cast<std::byte*>(out.data()), rows, bytes), row,
                              byte);
        };
    };
    read(1, 4, 2, 8)();
    EXPECT_EQ(out, (std::vector<std::int32_t>{106, 107, 111, 112}));
    read(2, 8, 1, 12)();
    EXPECT_EQ(out, (std::vector<std::int32_t>{112, 113, 114, 112}));
    const std::string_view message = "tensor 't' is too small (it is 3 rows of 20 bytes, ";
    expect_error(ExitCode::corrupt_input, message, read(2, 0, 2, 8));
    expect_error(ExitCode::corrupt_input, message, read(0, 16, 1, 8));
    expect_error(ExitCode::corrupt_input, message, read(-1, 0, 1, 4));
}

TEST(SafetensorsRead, UnknownNamesAndTypesAreRefused) {
    const TemporaryFolder folder;
    const index_t shape[] = {2};
    const std::vector<std::int32_t> values(2);
    const TensorSource source = make_source<std::int32_t>(folder, "I32", shape, values);
    float out[2];
    expect_error(ExitCode::corrupt_input, "tensor 't' has dtype I32",
                 [&] { source.read("t", MatrixView<float>(out, 1, 2)); });
    expect_error(ExitCode::corrupt_input, "has no tensor 'tt' (1 tensor, the nearest name is 't')",
                 [&] { (void)source.info("tt"); });
    expect_error(ExitCode::corrupt_input, "none has a similar name", [&] { (void)source.info("x"); });
    expect_error(ExitCode::corrupt_input, (folder / "t.safetensors").string(), [&] { (void)source.info("x"); });
    EXPECT_TRUE(source.contains("t"));
    EXPECT_FALSE(source.contains("tt"));
}

TEST(SafetensorsRead, MissingFileIsAUsageError) {
    const TemporaryFolder folder;
    expect_error(ExitCode::usage, "No such file", [&] { (void)TensorSource::open_file(folder / "a.safetensors"); });
}

}  // namespace
}  // namespace moesaic::io
