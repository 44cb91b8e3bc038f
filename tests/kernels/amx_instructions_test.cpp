// AMX instructions against plain computations: by the CPU where it has them, else by the emulator that other tests use.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "amx_instructions.hpp"
#include "core/scalar.hpp"

namespace moesaic::kernels::test {
namespace {

using core::bf16;

constexpr int max_cols = 16;   // of sums
constexpr int max_depth = 32;  // of products

AmxTiles::Configuration stored_configuration() {
    AmxTiles::Configuration configuration;
    asm volatile("sttilecfg %0" : "=m"(configuration));
    return configuration;
}

TEST_F(Amx, ConfigurationIsKeptUntilRelease) {
    asm volatile("ldtilecfg %0" ::"m"(full_tiles));  // relative to RIP
    const AmxTiles::Configuration stored = stored_configuration();
    EXPECT_EQ(std::memcmp(&stored, &full_tiles, sizeof(stored)), 0);
    EXPECT_EQ(AmxEmulator::holds_tiles(), AmxEmulator::needed());
    release();
    const AmxTiles::Configuration nothing = {};
    const AmxTiles::Configuration after = stored_configuration();
    EXPECT_EQ(std::memcmp(&after, &nothing, sizeof(after)), 0);
    EXPECT_FALSE(AmxEmulator::holds_tiles());
    AmxTiles::Configuration two[2] = {{}, full_tiles};
    asm volatile("ldtilecfg 64(%0)" ::"r"(two) : "memory");
    asm volatile("ldtilecfg -64(%0, %1, 2)" ::"r"(two), "r"(std::int64_t{32}) : "memory");  // palette 0 releases
    EXPECT_EQ(stored_configuration().palette, 0);
}

class Bytes {
public:
    Bytes() : bytes_(1U << 16U) {
        std::mt19937 random(1);
        std::generate(bytes_.begin(), bytes_.end(), [&] { return static_cast<char>(random()); });
    }
    [[nodiscard]] const char* middle() const { return bytes_.data() + bytes_.size() / 2; }

private:
    std::vector<char> bytes_;
};

void expect_tile_1(const char* expected, std::int64_t stride) {
    char tile[max_rows][row_bytes];
    asm volatile("tilestored %%tmm1, (%0, %1)" ::"r"(tile), "r"(std::int64_t{row_bytes}) : "memory");
    for (int row = 0; row < max_rows; ++row) {
        ASSERT_EQ(std::memcmp(tile[row], expected + row * stride, row_bytes), 0) << "row " << row;
    }
}

/// Loads tile 1 with the given registers and text of the address.
#define LOAD_TILE_1(instruction, base_name, index_name, address, base, index)                      \
    asm volatile("mov %0, %%" base_name "\n\tmov %1, %%" index_name "\n\t" instruction " " address \
                 ", %%tmm1" ::"r"(base),                                                           \
                 "r"(std::int64_t{index})                                                          \
                 : base_name, index_name, "memory")

TEST_F(Amx, LoadsFromAllKindsOfAddresses) {
    configure(full_tiles);
    const Bytes bytes;
    const char* const base = bytes.middle();
    LOAD_TILE_1("tileloadd", "rax", "rcx", "(%%rax, %%rcx)", base, 64);
    expect_tile_1(base, 64);
    LOAD_TILE_1("tileloaddt1", "rdx", "rsi", "-128(%%rdx, %%rsi, 2)", base, 100);
    expect_tile_1(base - 128, 200);
    LOAD_TILE_1("tileloadd", "r13", "r12", "(%%r13, %%r12, 4)", base, -25);
    expect_tile_1(base, -100);
    LOAD_TILE_1("tileloadd", "r12", "r13", "0x1234(%%r12, %%r13, 8)", base, 9);
    expect_tile_1(base + 0x1234, 72);
    LOAD_TILE_1("tileloaddt1", "rdi", "r15", "-0x1234(%%rdi, %%r15)", base, 77);
    expect_tile_1(base - 0x1234, 77);
    LOAD_TILE_1("tileloadd", "r8", "rbx", "127(%%r8, %%rbx, 2)", base, 0);
    expect_tile_1(base + 127, 0);
    LOAD_TILE_1("tileloadd", "r9", "r10", "(%%r9)", base, 64);  // no index: all rows are the same
    expect_tile_1(base, 0);
    asm volatile("tilezero %tmm1");
    const char zeros[row_bytes] = {};
    expect_tile_1(zeros, 0);
}

/// Tiles for products 2 += 7 * 4: sums [m, n] in 32 bits, and `bytes` bytes of k in a row of the left operand.
void configure_product(int m, int n, int bytes) {
    AmxTiles::Configuration configuration = {};
    configuration.palette = 1;
    const auto shape = [&](int tile, int rows, int bytes_per_row) {
        configuration.rows[tile] = static_cast<std::uint8_t>(rows);
        configuration.bytes_per_row[tile] = static_cast<std::uint16_t>(bytes_per_row);
    };
    shape(2, m, 4 * n);
    shape(7, m, bytes);
    shape(4, bytes / 4, 4 * n);
    configure(configuration);
}

/// Operands and result of TDPBF16PS by tiles 2 += 7 * 4 of the given shape, stored with gaps.
struct Product {
    int m = max_rows;
    int n = max_cols;
    int k = max_depth;
    bf16 left[max_rows][max_depth] = {};
    bf16 right[max_depth][max_cols] = {};
    float sums[max_rows][max_cols + 1] = {};

    void run() {
        configure_product(m, n, 2 * k);
        bf16 pairs[max_depth / 2][max_cols][2];
        for (int i = 0; i < max_depth; ++i) {
            for (int j = 0; j < max_cols; ++j) {
                pairs[i / 2][j][i % 2] = right[i][j];
            }
        }
        asm volatile(
            "tileloadd (%0, %3), %%tmm2\n\ttileloadd (%1, %4), %%tmm7\n\ttileloadd (%2, %4), %%tmm4\n\t"
            "tdpbf16ps %%tmm4, %%tmm7, %%tmm2\n\ttilestored %%tmm2, (%0, %3)" ::"r"(sums),
            "r"(left), "r"(pairs), "r"(sizeof(sums[0])), "r"(std::int64_t{row_bytes})
            : "memory");
    }
    /// Even and odd elements are summed apart, as in the pseudo-code of the Intel SDM.
    [[nodiscard]] float expected(int i, int j) const {
        float parts[2] = {};
        for (int kk = 0; kk < k; ++kk) {
            parts[kk % 2] = std::fma(core::widen(left[i][kk]), core::widen(right[kk][j]), parts[kk % 2]);
        }
        return sums[i][j] + (parts[0] + parts[1]);
    }
};

TEST_F(Amx, ProductsOfAllShapes) {
    std::mt19937 random(2);
    std::normal_distribution<float> values;
    for (const int m : {1, 3, 16}) {
        for (const int n : {1, 5, 16}) {
            for (const int k : {2, 6, 32}) {
                Product product{.m = m, .n = n, .k = k};
                const auto fill = [&](auto& matrix) {
                    for (auto& row : matrix) {
                        std::generate(std::begin(row), std::end(row),
                                      [&] { return std::remove_cvref_t<decltype(row[0])>(values(random)); });
                    }
                };
                fill(product.left);
                fill(product.right);
                fill(product.sums);
                const Product before = product;
                product.run();
                // A CPU may round in another order.
                const double bound = AmxEmulator::needed() ? 0 : 1e-5;
                for (int i = 0; i < max_rows; ++i) {
                    for (int j = 0; j <= max_cols; ++j) {
                        const bool inside = i < m && j < n;
                        ASSERT_NEAR(product.sums[i][j], inside ? before.expected(i, j) : before.sums[i][j],
                                    inside ? bound : 0)
                            << m << " x " << n << " x " << k << ": " << i << ", " << j;
                    }
                }
            }
        }
    }
}

/// TDPBSSD by tiles 2 += 7 * 4 of all byte values, some of whose sums wrap.
TEST_F(Amx, ProductsOfBytes) {
    std::mt19937 random(3);
    constexpr int most_bytes = 64;
    for (const int m : {1, 3, 16}) {
        for (const int n : {1, 5, 16}) {
            for (const int k : {4, 12, 64}) {
                std::int8_t left[max_rows][most_bytes];
                std::int8_t quads[most_bytes / 4][max_cols][4];
                std::int32_t sums[max_rows][max_cols];
                const auto fill = [&](auto& matrix) {
                    auto* bytes = reinterpret_cast<std::uint8_t*>(&matrix);
                    std::generate_n(bytes, sizeof(matrix), [&] { return static_cast<std::uint8_t>(random()); });
                };
                fill(left);
                fill(quads);
                fill(sums);
                std::int32_t before[max_rows][max_cols];
                std::memcpy(before, sums, sizeof(sums));
                configure_product(m, n, k);
                asm volatile(
                    "tileloadd (%0, %3), %%tmm2\n\ttileloadd (%1, %3), %%tmm7\n\ttileloadd (%2, %3), %%tmm4\n\t"
                    "tdpbssd %%tmm4, %%tmm7, %%tmm2\n\ttilestored %%tmm2, (%0, %3)" ::"r"(sums),
                    "r"(left), "r"(quads), "r"(std::int64_t{row_bytes})
                    : "memory");
                for (int i = 0; i < max_rows; ++i) {
                    for (int j = 0; j < max_cols; ++j) {
                        auto expected = static_cast<std::uint32_t>(before[i][j]);
                        for (int kk = 0; i < m && j < n && kk < k; ++kk) {
                            expected += static_cast<std::uint32_t>(left[i][kk] * quads[kk / 4][j][kk % 4]);
                        }
                        ASSERT_EQ(static_cast<std::uint32_t>(sums[i][j]), expected)
                            << m << " x " << n << " x " << k << ": " << i << ", " << j;
                    }
                }
            }
        }
    }
}

TEST_F(Amx, DenormalsCountAsZeros) {
    constexpr float denormal = 1e-39F;
    Product product;
    product.left[0][0] = bf16(denormal);
    product.right[0][0] = bf16(1e38F);
    product.left[1][1] = bf16(1e-20F);
    product.right[1][0] = bf16(1e-20F);
    product.sums[2][0] = denormal;
    product.sums[3][0] = 1e-37F;
    product.left[4][2] = bf16(-0x1p-63F);
    product.right[2][0] = bf16(0x1p-63F);
    product.sums[4][0] = 0x1.8p-126F;
    product.run();
    EXPECT_EQ(product.sums[0][0], 0.0F) << "an operand";
    EXPECT_EQ(product.sums[1][0], 0.0F) << "a product";
    EXPECT_EQ(product.sums[2][0], 0.0F) << "a sum before";
    EXPECT_EQ(product.sums[3][0], 1e-37F);
    EXPECT_EQ(product.sums[4][0], 0.0F) << "a sum after";
}

TEST_F(Amx, InfinitiesAndNaNs) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Product product;
    product.left[0][3] = bf16(infinity);  // infinity * 0
    product.left[1][5] = bf16(-infinity);
    product.left[2][31] = bf16(std::numeric_limits<float>::quiet_NaN());
    product.left[3][5] = bf16(3e38F);
    std::fill_n(product.right[5], max_cols, bf16(2.0F));
    product.sums[4][0] = infinity;
    product.sums[1][1] = infinity;
    product.run();
    for (int j = 0; j < max_cols; ++j) {
        EXPECT_TRUE(std::isnan(product.sums[0][j]));
        EXPECT_TRUE(j == 1 ? std::isnan(product.sums[1][j]) : product.sums[1][j] == -infinity);
        EXPECT_TRUE(std::isnan(product.sums[2][j]));
        EXPECT_EQ(product.sums[3][j], infinity) << "overflow";
        EXPECT_EQ(product.sums[4][j], j == 0 ? infinity : 0.0F);
    }
}

TEST_F(Amx, RoundingModeIsNeitherUsedNorChanged) {
    constexpr unsigned upwards = 0x5f80;
    const unsigned before = __builtin_ia32_stmxcsr();
    Product product;
    product.left[0][0] = bf16(1.0F);
    product.right[0][0] = bf16(1e-20F);
    product.sums[0][0] = 1.0F;
    __builtin_ia32_ldmxcsr(upwards);
    product.run();
    const unsigned after = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before);
    EXPECT_EQ(after, upwards);
    EXPECT_EQ(product.sums[0][0], 1.0F);
}

TEST_F(Amx, ThreadsHaveTheirOwnTiles) {
    std::vector<std::thread> threads;
    for (int id = 1; id <= 4; ++id) {
        threads.emplace_back([id] {
            for (int repetition = 0; repetition < 200; ++repetition) {
                Product product{.m = 4 * id, .n = 4 * id};
                product.left[id][1] = bf16(static_cast<float>(id));
                product.right[1][id] = bf16(2.0F);
                product.run();
                ASSERT_EQ(product.sums[id][id], static_cast<float>(2 * id));
                ASSERT_EQ(AmxEmulator::holds_tiles(), AmxEmulator::needed());
            }
            release();
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_FALSE(AmxEmulator::holds_tiles());
}

}  // namespace
}  // namespace moesaic::kernels::test
