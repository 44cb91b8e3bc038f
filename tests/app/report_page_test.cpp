// The report that a training run writes at its end.
#include "app/report_page.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace moesaic::app {
namespace {

/// The adapter is written by then: whatever is wrong with the report is a line, not the end of the run.
TEST(ReportPage, FailsInWords) {
    const test::TemporaryFolder folder;
    EXPECT_NE(try_to_report(folder.path(), folder / "report").find("run.json"), std::string::npos);
    folder.write("run.json", R"({"started":"a","ranks":[],"configuration":{}})");
    EXPECT_NE(try_to_report(folder.path(), folder / "missing/report").find("missing"), std::string::npos);
    EXPECT_EQ(try_to_report(folder.path(), folder / "report"), "");
    EXPECT_TRUE(std::filesystem::exists(folder / "report.html"));
    folder.write("run.json", R"({"started":5})");
    EXPECT_NE(try_to_report(folder.path(), folder / "report").find("run.json"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::app
