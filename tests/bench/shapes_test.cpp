#include "bench/shapes.hpp"

#include "core/error.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace moesaic::bench {
namespace {

std::string usage_error(const std::function<void()>& work) {
    try {
        work();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::usage);
        return error.what();
    }
    return "";
}

TEST(Shapes, AreThoseOfTheModel) {
    const LayerShape shape = layer_shape("deepseek-v2-lite");
    EXPECT_EQ(shape.name, "deepseek-v2-lite");
    EXPECT_EQ(shape.hidden, 2048);
    EXPECT_EQ(shape.intermediate, 1408);
    EXPECT_EQ(shape.experts, 64);
    EXPECT_EQ(shape.experts_per_token, 6);
    EXPECT_EQ(layer_shape("qwen3-30b-a3b").expert_parameters(), 3 * 2048 * 768);
    const std::string error = usage_error([] { static_cast<void>(layer_shape("mixtral-8x7")); });
    EXPECT_EQ(error.find("shape = mixtral-8x7 "), 0U) << error;
    EXPECT_NE(error.find("did you mean mixtral-8x7b?"), std::string::npos) << error;
}

TEST(Shapes, GivenSizesReplaceThoseOfAName) {
    const LayerShape base = layer_shape("deepseek-v3");
    EXPECT_EQ(base.with({}).name, base.name);
    const LayerShape changed = base.with({"", 0, 96, 16, 0});
    EXPECT_EQ(changed.hidden, base.hidden);
    EXPECT_EQ(changed.intermediate, 96);
    EXPECT_EQ(changed.experts, 16);
    EXPECT_NE(changed.name, base.name);
    EXPECT_NE(usage_error([&] { static_cast<void>(base.with({"", 0, 0, 4, 0})); }), "");
}

TEST(Shapes, ListsOfSizes) {
    EXPECT_EQ(parse_sizes("m", "16"), (std::vector<index_t>{16}));
    EXPECT_EQ(parse_sizes("m", "1,4,1024"), (std::vector<index_t>{1, 4, 1024}));
    EXPECT_EQ(parse_sizes("bytes", "512,1K,1.5MiB"), (std::vector<index_t>{512, 1024, 3 << 19}));
    for (const char* bad : {"", "K", "1k5", "0.3K", "1KB5", "1X", ",", "1,", ",1", "0", "-3", "4;5", "4 5", "1e3",
                            "99999999999999999999"}) {
        EXPECT_NE(usage_error([&] { static_cast<void>(parse_sizes("m", bad)); }), "") << bad;
    }
}

}  // namespace
}  // namespace moesaic::bench
