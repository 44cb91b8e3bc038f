#include "host/remarks.hpp"

#include <gtest/gtest.h>

namespace moesaic::host {
namespace {

const Remark slow = {Severity::warning, "slow", "3 MHz", "wait"};
const Remark plain = {Severity::note, "plain"};

TEST(Remarks, AreGroupedByProblem) {
    Remark slower = slow;
    slower.detail = "2 MHz";
    const auto lines = group_remarks({{plain, slow}, {plain}, {slower}, {plain}});
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_EQ(lines[0].with_severity(), "warning: ranks 0,2: slow (rank 0: 3 MHz); wait");
    EXPECT_EQ(lines[1].with_severity(), "note: ranks 0-1,3: plain");
    EXPECT_EQ(lines[1].text, "ranks 0-1,3: plain");
}

TEST(Remarks, OfASingleRankNeedNoNumber) {
    EXPECT_EQ(group_remarks({{slow}}).front().text, "slow (3 MHz); wait");
    EXPECT_EQ(group_remarks({{}, {slow}}).front().text, "rank 1: slow (3 MHz); wait");
    EXPECT_TRUE(group_remarks({}).empty());
}

TEST(Remarks, SurviveTheWayAsText) {
    const auto back = remarks_from(to_text({slow, plain}));
    ASSERT_EQ(back.size(), 2U);
    EXPECT_EQ(back[0].severity, Severity::warning);
    EXPECT_EQ(back[0].problem, "slow");
    EXPECT_EQ(back[0].detail, "3 MHz");
    EXPECT_EQ(back[0].advice, "wait");
    EXPECT_EQ(back[1].severity, Severity::note);
    EXPECT_EQ(back[1].problem, "plain");
    EXPECT_EQ(back[1].detail, "");
    EXPECT_TRUE(remarks_from("").empty());
}

}  // namespace
}  // namespace moesaic::host
