#include "report/run_page.hpp"
#include "report/comparison_page.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <string>

namespace moesaic::report {
namespace {

/// The folder of a run with one rank.
class RunFolder {
public:
    /// `more`: further members of the rank, and of run.json; `options`: members of its configuration.
    explicit RunFolder(const std::string& more, const std::string& options = "") {
        folder_.write(
            "run.json",
            R"({"started":"2026-01-01T00:00:00Z","memory_plan":[{"purpose":"weights","bytes":1048576}],"configuration":{)" +
                options +
                R"(},"ranks":[{"rank":0,"host":"a","threads":1,"cores":[0],"numa_nodes":[0],"threads_bound":true)" +
                more + "}");
    }

    void write(const std::string& file, const std::string& text) const { folder_.write(file, text); }
    [[nodiscard]] std::string page() const { return to_markdown(describe_run(folder_.path())); }
    [[nodiscard]] RunRecord record() const { return read_run(folder_.path()); }
    [[nodiscard]] std::filesystem::path path() const { return folder_.path(); }

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

std::string line_of_step(int step, const std::string& loss, const std::string& more = "") {
    return R"({"step":)" + std::to_string(step) + R"(,"loss":)" + loss +
           R"(,"grad_norm":1,"lr":0.1,"skipped":false,"tokens_per_second":5)" + more + "}\n";
}

std::string line_of_evaluation(int step, const std::string& loss) {
    return R"({"step":)" + std::to_string(step) + R"(,"eval_loss":)" + loss +
           R"(,"eval_exact":25,"eval_tokens":1e18})" + "\n";
}

/// One line is damaged, and one was being written when the run was killed.
TEST(RunPage, DamagedLinesAreNamedAndLeftOut) {
    const RunFolder run("}]");
    run.write("metrics.jsonl", line_of_step(1, "3.5") + "nonsense\n" + line_of_step(3, "\"2\"") +
                                   line_of_step(4, "1.25") + R"({"step":5,"lo)");
    const Document document = describe_run(run.path());
    ASSERT_EQ(document.damage.size(), 2U);
    EXPECT_NE(document.damage[0].find("metrics.jsonl:2"), std::string::npos) << document.damage[0];
    EXPECT_NE(document.damage[1].find("metrics.jsonl:3"), std::string::npos) << document.damage[1];
    const std::string page = to_markdown(document);
    EXPECT_NE(page.find("1.25"), std::string::npos) << page;
    EXPECT_NE(page.find("2 steps"), std::string::npos) << page;
    run.write("trace.json", "[]");
    EXPECT_EQ(describe_run(run.path()).damage.size(), 3U);
}

/// Numbers that no chart can show.
TEST(RunPage, ShowsWhateverIsInTheMetrics) {
    const RunFolder run("}]");
    run.write("metrics.jsonl", line_of_step(1, "2.5000000000000004") + line_of_step(2, "2.5"));
    EXPECT_LT(to_html(describe_run(run.path())).size(), 50000U);
    run.write("metrics.jsonl", R"({"step":1.79e308,"loss":1e-320,"grad_norm":-1.79e308,"lr":1e18,"skipped":true,)"
                               R"("tokens_per_second":1.7e308})"
                               "\n" +
                                   line_of_step(2, "null", R"(,"slowest_rank":null,"slowness":1)") +
                                   line_of_evaluation(3, "1e308"));
    EXPECT_LT(to_html(describe_run(run.path())).size(), 50000U);
    EXPECT_TRUE(describe_run(run.path()).damage.empty());
}

/// Steps without a loss, such as those without targets, are not what a run ends with.
TEST(RunPage, TakesTheLastLossThatThereIs) {
    const RunFolder run("}]");
    run.write("metrics.jsonl",
              line_of_step(1, "null") + line_of_step(2, "3") + line_of_step(3, "2.25") + line_of_step(4, "null"));
    EXPECT_NE(run.page().find("step 3; 3 at step 2"), std::string::npos) << run.page();
    run.write("metrics.jsonl", line_of_step(1, "null"));
    EXPECT_EQ(run.page().find("training loss"), std::string::npos) << run.page();
}

TEST(RunPage, SmoothsTheLossOfManySteps) {
    const RunFolder run("}]");
    std::string metrics;
    for (int step = 1; step <= 40; ++step) {
        metrics += line_of_step(step, step % 2 == 0 ? "1" : "3");
    }
    run.write("metrics.jsonl", metrics + line_of_evaluation(40, "1.5"));
    const auto series = training_loss_of(run.record().metrics, "training");
    ASSERT_EQ(series.size(), 2U);
    EXPECT_EQ(series[0].y[38], 3);
    EXPECT_EQ(series[1].name, "training, mean of the last 5 steps");
    EXPECT_EQ(series[1].y[0], 3);
    EXPECT_NEAR(series[1].y[38], 11.0 / 5, 1e-12);
    EXPECT_NE(run.page().find("mean of the last 5 steps"), std::string::npos);
    run.write("metrics.jsonl", line_of_step(1, "3") + line_of_step(2, "1"));
    EXPECT_EQ(training_loss_of(run.record().metrics, "training").size(), 1U);
}

TEST(RunPage, HasATableOfSessions) {
    const RunFolder one(R"(}],"sessions":[{"started":"2026-01-01T00:00:00Z"}])");
    EXPECT_EQ(one.page().find("## Sessions"), std::string::npos);
    const RunFolder two(
        R"(}],"sessions":[{"started":"a","ranks":2,"totals":{"steps":3}},{"started":"b","command_line":"train x"}])");
    const std::string page = two.page();
    EXPECT_NE(page.find("| session | ranks | started | totals.steps | command\\_line |"), std::string::npos) << page;
    EXPECT_NE(page.find("| 1 | 2 | a | 3 |  |"), std::string::npos) << page;
    EXPECT_NE(page.find("| 2 |  | b |  | train x |"), std::string::npos) << page;
}

TEST(RunPage, HasNoMarkupOfOtherLanguages) {
    const RunFolder run(R"(}],"kernels":{"bf16":"avx512_bf16","fp32":"avx512"},"grid":{"data":1,"expert":2})");
    const std::string html = to_html(describe_run(run.path()));
    EXPECT_NE(html.find("bf16 avx512_bf16, fp32 avx512"), std::string::npos) << html;
    for (const char* foreign : {"(s)", "[0", "{&quot;", "&quot;:"}) {
        EXPECT_EQ(html.find(foreign), std::string::npos) << foreign;
    }
}

TEST(ComparisonPage, ShowsRunsBesideEachOther) {
    const auto run = [](const std::string& rate) {
        return RunFolder(R"(}],"finished":"f","totals":{"tokens_per_second":52.5})",
                         R"("train.lr":")" + rate + R"(","a":"b")");
    };
    const RunFolder first = run("0.001");
    const RunFolder second = run("0.002");
    first.write("metrics.jsonl", line_of_evaluation(0, "4") + line_of_step(1, "3") + line_of_evaluation(1, "2.5"));
    second.write("metrics.jsonl", line_of_evaluation(0, "4") + line_of_step(1, "3.5") + line_of_evaluation(1, "2.75"));
    const Document page = compare_runs({first.record(), second.record()});
    const std::string markdown = to_markdown(page);
    EXPECT_NE(markdown.find("| train.lr | 0.001 | 0.002 |"), std::string::npos) << markdown;
    EXPECT_EQ(markdown.find("| a |"), std::string::npos) << markdown;
    EXPECT_NE(markdown.find("| least evaluation loss (nats/token) | 2.5 | 2.75 |"), std::string::npos) << markdown;
    EXPECT_NE(markdown.find("| training loss (nats/token) | 3 | 3.5 |"), std::string::npos) << markdown;
    const auto& chart = std::get<LineChart>(std::get<Figure>(page.sections.front().blocks.front()).chart);
    EXPECT_EQ(chart.series.size(), 4U);
    EXPECT_NE(to_markdown(compare_runs({first.record(), first.record()})).find("All options are the same"),
              std::string::npos);
}

}  // namespace
}  // namespace moesaic::report
