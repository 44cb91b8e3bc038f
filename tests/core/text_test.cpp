#include "core/text.hpp"

#include <gtest/gtest.h>

namespace moesaic::core {
namespace {

TEST(Text, ListsAreSplitAtCommas) {
    EXPECT_EQ(split("a,bc"), (std::vector<std::string>{"a", "bc"}));
    EXPECT_EQ(split("a,,"), (std::vector<std::string>{"a", "", ""}));
    EXPECT_EQ(split(""), std::vector<std::string>{""});
}

TEST(Text, NeighbouringNumbersAreRanges) {
    EXPECT_EQ(ranges(std::vector{0, 1, 2, 3, 8}), "0-3,8");
    EXPECT_EQ(ranges(std::vector{1, 3, 4}), "1,3-4");
    EXPECT_EQ(ranges({}), "");
}

TEST(Text, SizesMayHaveAUnit) {
    EXPECT_EQ(parse_size("4096"), 4096);
    EXPECT_EQ(parse_size("64K"), 65536);
    EXPECT_EQ(parse_size("1.5GiB"), std::int64_t{3} << 29U);
    EXPECT_EQ(parse_size("2TB"), std::int64_t{2} << 40U);
    EXPECT_EQ(parse_size("-3"), -3);
    for (const char* bad : {"", "K", "1 K", "1k", "1KK", "1e3", "0.3", "nan", "inf", "1e300", "99999999999999999999"}) {
        EXPECT_EQ(parse_size(bad), std::nullopt) << bad;
    }
}

}  // namespace
}  // namespace moesaic::core
