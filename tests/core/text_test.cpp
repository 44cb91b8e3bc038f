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

}  // namespace
}  // namespace moesaic::core
