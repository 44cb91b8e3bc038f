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

TEST(Text, LongListsAreCounted) {
    EXPECT_EQ(joined(std::vector<std::string>{}), "");
    EXPECT_EQ(joined(std::vector<std::string>{"a", "b"}, 2), "a, b");
    EXPECT_EQ(joined(std::vector<std::string>{"a", "b", "c"}, 2), "a, b and 1 more");
}

TEST(Text, PrintableTextStaysOnItsLineAndCommandsNoTerminal) {
    EXPECT_EQ(printable("a\nb\x1b[0m"), "a\\x0ab\\x1b[0m");
    EXPECT_EQ(printable("\x7f\xc2\x9bq"), "\\x7f\\xc2\\x9bq");  // DEL, and the control sequence introducer of ISO 8859
    EXPECT_EQ(printable("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
}

TEST(Text, WhatIsNoUtf8IsShownAsBytes) {
    for (const auto& [text, shown] : std::vector<std::pair<std::string, std::string>>{
             {"\xe9", "\\xe9"},                            // ISO 8859-1
             {"\xc3", "\\xc3"},                            // cut
             {"\xc0\xaf", "\\xc0\\xaf"},                   // a longer form of "/"
             {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          // half of a surrogate pair
             {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}  // beyond the last code point
         }) {
        EXPECT_EQ(printable(text), shown);
        EXPECT_FALSE(is_utf8(text));
    }
    EXPECT_TRUE(is_utf8("\xf4\x8f\xbf\xbf"));
}

TEST(Text, LongTextIsCutAndCounted) {
    EXPECT_EQ(printable("abcdef", 3), "abc... (6 characters)");
    EXPECT_EQ(printable("abc", 3), "abc");
    EXPECT_EQ(printable("\xc3\xa9\xc3\xa9", 1), "\xc3\xa9... (2 characters)");
    EXPECT_LT(printable(std::string(1U << 20U, 'x')).size(), 240U);
}

TEST(Text, NearestFindsSimilarWordsOnly) {
    const std::vector<std::string> words = {"train", "eval", "verify"};
    EXPECT_EQ(nearest("trian", words), "train");
    EXPECT_EQ(nearest("verfy", words), "verify");
    EXPECT_EQ(nearest("xyzzy", words), "");
}

TEST(Text, CountsAreShort) {
    EXPECT_EQ(short_count(999), "999");
    EXPECT_EQ(short_count(1000), "1.0 k");
    EXPECT_EQ(short_count(5.66e6), "5.7 M");
    EXPECT_EQ(short_count(30.5e9), "30.5 B");
    EXPECT_EQ(short_count(1.03e12), "1.0 T");
}

}  // namespace
}  // namespace moesaic::core
