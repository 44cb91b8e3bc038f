#include "report/run_page.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <string>

namespace moesaic::report {
namespace {

/// The folder of a run with one rank.
class RunFolder {
public:
    /// `more`: further members of run.json.
    explicit RunFolder(const std::string& more) {
        folder_.write(
            "run.json",
            R"({"started":"2026-01-01T00:00:00Z","configuration":{},"memory_plan":[{"purpose":"weights","bytes":1048576}],)"
            R"("ranks":[{"rank":0,"host":"a","threads":1,"cores":[0],"numa_nodes":[0],"threads_bound":true)" +
                more + "}");
    }

    void write(const std::string& file, const std::string& text) const { folder_.write(file, text); }
    [[nodiscard]] std::string page() const { return to_markdown(describe_run(folder_.path())); }

private:
    test::TemporaryFolder folder_;
};

/// One step in four stalls: the median of the steps does not see it, the whole run does.
TEST(RunPage, HasThroughputOfTheStepsAndOfTheWholeRun) {
    const RunFolder run(R"(}],"finished":"2026-01-01T00:00:09Z","totals":{"tokens_per_second":52.5})");
    std::string metrics;
    for (const int rate : {100, 100, 10, 100}) {
        metrics += R"({"step":1,"loss":1,"grad_norm":1,"lr":1,"skipped":false,"tokens_per_second":)" +
                   std::to_string(rate) + "}\n";
    }
    run.write("metrics.jsonl", metrics);
    const std::string page = run.page();
    EXPECT_NE(page.find("| throughput | 100 |"), std::string::npos) << page;
    EXPECT_NE(page.find("| throughput of the whole run | 52.5 |"), std::string::npos) << page;
}

TEST(RunPage, HasAuxiliaryLossUnusedExpertsAndTheSlowestRanks) {
    const RunFolder run("}]");
    const std::string step =
        R"({"step":1,"loss":1,"grad_norm":1,"lr":1,"skipped":false,"tokens_per_second":9,"unused_experts":17)";
    run.write("metrics.jsonl", step + "}\n");
    EXPECT_NE(run.page().find("Unused experts"), std::string::npos) << run.page();
    EXPECT_NE(run.page().find("17"), std::string::npos) << run.page();
    EXPECT_EQ(run.page().find("Auxiliary loss"), std::string::npos);
    EXPECT_EQ(run.page().find("Slowest rank"), std::string::npos);
    run.write("metrics.jsonl", step + R"(,"slowest_rank":3,"slowness":1.25,"aux_loss":2.125})" + "\n" + step +
                                   R"(,"slowest_rank":3,"slowness":1.75,"aux_loss":2.375})" + "\n");
    const std::string page = run.page();
    EXPECT_NE(page.find("| 3 | 2 | 1.5 | 1.75 |"), std::string::npos) << page;
    EXPECT_NE(page.find("Auxiliary loss of the routers"), std::string::npos) << page;
    EXPECT_NE(page.find("2.375"), std::string::npos) << page;
}

TEST(RunPage, HasTheMemoryOfARunThatDidNotEnd) {
    const RunFolder run("}]");
    EXPECT_EQ(run.page().find("resident at most"), std::string::npos);
    run.write("trace/rank-0.json",
              "{\"traceEvents\":[\n"
              R"({"name":"resident memory","ph":"C","ts":1,"pid":0,"tid":0,"args":{"bytes":3145728}},)"
              "\n"
              R"({"name":"resident memory","ph":"C","ts":2,"pid":0,"tid":0,"args":{"bytes":2097152}})"
              "\n],\"otherData\":{\"dropped_events\":0}}\n");
    EXPECT_NE(run.page().find("| 0 | 3 | 2 |"), std::string::npos) << run.page();  // MiB, and over the plan
    const RunFolder ended(R"(,"peak_memory_bytes":4194304}])");
    EXPECT_NE(ended.page().find("| 0 | 4 | 3 |"), std::string::npos) << ended.page();
}

}  // namespace
}  // namespace moesaic::report
