// moesaic report: what it finds, writes and refuses.
#include "app/program.hpp"
#include "io/files.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "support/temporary_folder.hpp"

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using test::alone;
using test::error_lines;
using test::Result;

class ReportTest : public testing::Test {
protected:
    [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
    [[nodiscard]] std::string text(const std::string& name) const { return io::read_file(path(name), 1U << 24U); }
    /// The output folder of a training run.
    void write_run(const std::string& name, const std::string& rate, const std::string& metrics) const {
        folder_.write(name + "/run.json", R"({"started":"2026-01-01T00:00:00Z","finished":"2026-01-01T00:01:00Z",)"
                                          R"("ranks":[{"rank":0,"host":"a","threads":1,"cores":[0,1],"numa_nodes":[0],)"
                                          R"("threads_bound":true}],"configuration":{"train.lr":")" +
                                              rate + "\"}}");
        folder_.write(name + "/metrics.jsonl", metrics);
    }
    void expect_error(const std::string& arguments, int exit_code, const std::string& part) const {
        const Result result = alone(arguments);
        EXPECT_EQ(result.exit_code, exit_code) << arguments << "\n" << result.output;
        const auto lines = error_lines(result.output);
        ASSERT_EQ(lines.size(), 1U) << arguments << "\n" << result.output;
        EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
    }

    const std::string sample = MOESAIC_TEST_DATA "/bench/suite_two_ranks.json";
    const std::string step = R"({"step":1,"loss":3,"grad_norm":1,"lr":0.1,"skipped":false,"tokens_per_second":5})"
                             "\n";
    moesaic::test::TemporaryFolder folder_;
};

TEST_F(ReportTest, FindsWhatAFolderHolds) {
    write_run("runs/b", "2", step);
    write_run("runs/a", "1", step);
    folder_.write("runs/notes.json", "{}");
    fs::copy(sample, path("runs/suite.json"));
    const Result result = alone("report " + path("runs"));
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const std::string page = text("runs/report.md");
    const std::size_t a = page.find("training run a");
    const std::size_t b = page.find("training run b");
    EXPECT_LT(a, b) << page;
    EXPECT_NE(b, std::string::npos) << page;
    EXPECT_NE(page.find("suite.json"), std::string::npos) << page;
    EXPECT_NE(page.find("Loss of all runs"), std::string::npos) << page;
    EXPECT_NE(page.find("| train.lr | 1 | 2 |"), std::string::npos) << page;
    // A run's own folder may hold results, too.
    fs::copy(sample, path("runs/a/suite.json"));
    ASSERT_EQ(alone("report " + path("runs/a")).exit_code, 0);
    EXPECT_NE(text("runs/a/report.md").find("bench suite"), std::string::npos);
    fs::create_directories(path("empty"));
    expect_error("report " + path("empty"), 2, "has nothing to report on");
    expect_error("report " + path("missing"), 2, "missing");
}

TEST_F(ReportTest, NamesTheFilesOfSeveralResults) {
    for (const char* name : {"before.json", "after.json"}) {
        fs::copy(sample, path(name));
    }
    ASSERT_EQ(alone("report " + path("before.json") + " " + path("after.json")).exit_code, 0);
    const std::string page = text("before.html");
    for (const char* name : {"before.json: All figures", "after.json: All figures"}) {
        const std::size_t heading = page.find(name, page.find("<h2>"));
        EXPECT_LT(heading, page.find("</h2>", heading)) << name;
    }
    write_run("x/a", "1", step);
    write_run("y/a", "1", step);
    ASSERT_EQ(alone("report " + path("x/a") + " " + path("y/a")).exit_code, 0);
    EXPECT_NE(text("x/a/report.html").find("training run a (" + path("y/a") + "): Loss"), std::string::npos);
}

TEST_F(ReportTest, ComparesRuns) {
    write_run("a", "1", step);
    write_run("b", "2", step);
    write_run("c", "3", step);
    const Result result = alone("report --compare " + path("a") + " " + path("b") + " " + path("c"));
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(text("a/comparison.md").find("| train.lr | 1 | 2 | 3 |"), std::string::npos);
    EXPECT_TRUE(fs::exists(path("a/comparison.html")));
    ASSERT_EQ(alone("report --compare " + path("a") + " " + path("b") + " --output " + path("out")).exit_code, 0);
    EXPECT_TRUE(fs::exists(path("out/comparison.html")));
    expect_error("report --compare " + path("a"), 2, "two runs or more");
    expect_error("report --compare " + path("a") + " " + sample, 2, "can't be compared with a training run");
}

TEST_F(ReportTest, DamagedMetricsAreNamedAndTheRestIsShown) {
    write_run("a", "1", step + "nonsense\n");
    const Result result = alone("report " + path("a"));
    EXPECT_EQ(result.exit_code, 4) << result.output;
    EXPECT_NE(result.output.find("metrics.jsonl:2"), std::string::npos) << result.output;
    EXPECT_NE(text("a/report.md").find("Damaged input"), std::string::npos);
    EXPECT_NE(text("a/report.md").find("| training loss | 3 |"), std::string::npos);
}

TEST_F(ReportTest, ChecksResults) {
    const Result measured =
        alone("bench kernels --m 7 --n 40 --k 33 --repeat 2 --seconds 0 --threads 1 --output " + path("kernels.json"));
    ASSERT_EQ(measured.exit_code, 0) << measured.output;
    const Result kept = alone("report --check " + path("kernels.json"));
    EXPECT_EQ(kept.exit_code, 0) << kept.output;
    EXPECT_NE(kept.output.find("keeps the rules"), std::string::npos) << kept.output;
    const Result broken = alone("report --check " + sample);  // its headline is not of the reference workload
    EXPECT_EQ(broken.exit_code, 3) << broken.output;
    EXPECT_NE(broken.output.find("breaks the rules"), std::string::npos) << broken.output;
    EXPECT_NE(broken.output.find("  headline: no case allows one"), std::string::npos) << broken.output;
    expect_error("report --check", 2, "needs a file");
    expect_error("report --check " + folder_.write("bad.json", "[").string(), 4, "bad.json");
}

}  // namespace
}  // namespace moesaic::app
