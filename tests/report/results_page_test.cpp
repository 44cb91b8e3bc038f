#include "report/results_page.hpp"
#include "bench/results.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "support/xml.hpp"

namespace moesaic::report {
namespace {

const char* const sample = MOESAIC_TEST_DATA "/bench/suite_two_ranks.json";

TEST(ResultsPage, ShowsAllFiguresOfTheFile) {
    const bench::Results results = bench::read_results(sample);
    const std::string html = to_html(describe_results(results));
    moesaic::test::XmlReader page(html);
    ASSERT_EQ(page.check(), "");
    std::multiset<double> shown;
    for (const std::string& number : page.data()) {
        shown.insert(std::stod(number));
    }
    ASSERT_TRUE(results.headline);
    EXPECT_TRUE(shown.contains(results.headline->value));
    for (const bench::CaseResult& result : results.cases) {
        for (const bench::Figure& figure : result.figures) {
            EXPECT_TRUE(shown.contains(figure.value)) << result.name << ' ' << figure.name;
            if (figure.summary.n > 0) {
                EXPECT_TRUE(shown.contains(figure.summary.low)) << result.name << ' ' << figure.name;
                EXPECT_TRUE(shown.contains(figure.summary.high)) << result.name << ' ' << figure.name;
                EXPECT_TRUE(shown.contains(static_cast<double>(figure.summary.n)));
            }
        }
    }
    for (const char* section : {"<h2>Roofline</h2>", "<h2>Collectives</h2>", "<h2>Environment</h2>"}) {
        EXPECT_NE(html.find(section), std::string::npos) << section;
    }
}

/// Speed-up and efficiency against the case with the fewest threads.
TEST(ResultsPage, ComparesCasesOfOneNameByThreads) {
    bench::Results results;
    results.command = "bench suite";
    for (const bench::index_t threads : {1, 4}) {
        bench::CaseResult result;
        result.name = "layer@1x" + std::to_string(threads);
        result.benchmark = "other";
        result.threads = threads;
        const double time = threads == 1 ? 12 : 4;
        result.figures.push_back({"time", "ms", bench::Better::lower, time, bench::summarize({time})});
        results.cases.push_back(result);
    }
    const std::string csv = to_csv(describe_results(results));
    EXPECT_NE(csv.find("Scaling,Speed-up,2,layer: time,x,3\r\n"), std::string::npos) << csv;
    EXPECT_NE(csv.find("Scaling,Efficiency,2,layer: time,%,75\r\n"), std::string::npos) << csv;
}

}  // namespace
}  // namespace moesaic::report
