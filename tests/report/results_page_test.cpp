#include "report/results_page.hpp"

#include "core/error.hpp"
#include "measure/results.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "support/xml.hpp"

namespace moesaic::report {
namespace {

const char* const sample = MOESAIC_TEST_DATA "/bench/suite_two_ranks.json";

TEST(ResultsPage, ShowsAllFiguresOfTheFile) {
    const measure::Results results = measure::read_results(sample);
    const std::string html = to_html(describe_results(results));
    moesaic::test::XmlReader page(html);
    ASSERT_EQ(page.check(), "");
    std::multiset<double> shown;
    for (const std::string& number : page.data()) {
        shown.insert(std::stod(number));
    }
    ASSERT_TRUE(results.headline);
    EXPECT_TRUE(shown.contains(results.headline->value));
    for (const measure::CaseResult& result : results.cases) {
        for (const measure::Figure& figure : result.figures) {
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
    measure::Results results;
    results.command = "bench suite";
    for (const core::index_t threads : {1, 4}) {
        measure::CaseResult result;
        result.name = "layer@1x" + std::to_string(threads);
        result.benchmark = "other";
        result.threads = threads;
        const double time = threads == 1 ? 12 : 4;
        result.figures.push_back({"time", "ms", measure::Better::lower, time, measure::summarize({time})});
        results.cases.push_back(result);
    }
    const std::string csv = to_csv(describe_results(results));
    EXPECT_NE(csv.find("Scaling,Speed-up,2,layer: time,x,3\r\n"), std::string::npos) << csv;
    EXPECT_NE(csv.find("Scaling,Efficiency,2,layer: time,%,75\r\n"), std::string::npos) << csv;
}

/// What a chart needs is asked of the data, not of names.
TEST(ResultsPage, AFigureWithoutItsParametersIsRefused) {
    measure::Results results;
    measure::CaseResult result{.name = "collectives", .benchmark = "collectives"};
    const measure::FigureKey key = measure::figures::time_of_message("all_reduce", 1024);
    result.figures.push_back({.name = key.name, .unit = "us", .value = 7, .quantity = key.quantity, .parameters = {}});
    for (const measure::Parameters& damaged :
         {measure::Parameters{}, {{"operation", "all_reduce"}}, {{"operation", "all_reduce"}, {"bytes", "many"}}}) {
        result.figures[0].parameters = damaged;
        results.cases = {result};
        try {
            (void)describe_results(results);
            ADD_FAILURE() << "accepted";
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::corrupt_input);
            EXPECT_NE(std::string(error.what()).find("all_reduce_1024"), std::string::npos) << error.what();
        }
    }
    result.figures[0].parameters = key.parameters;
    results.cases = {result};
    EXPECT_NE(to_csv(describe_results(results)).find("all_reduce, 1 rank"), std::string::npos);
}

/// Figures that no machine reaches, on logarithmic axes.
TEST(ResultsPage, ShowsWhateverNumbersThereAre) {
    for (const double factor : {1e-300, 1e-30, 1e30, 1e300}) {
        measure::Results results = measure::read_results(sample);
        for (measure::CaseResult& result : results.cases) {
            for (std::size_t i = 0; i < result.figures.size(); ++i) {
                measure::Figure& figure = result.figures[i];
                const double by = i % 2 == 0 ? factor : 1;
                figure.value *= by;
                figure.summary.low *= by;
                figure.summary.high *= by;
                for (auto& [key, value] : figure.parameters) {
                    value = key == measure::figures::bytes ? std::to_string(i + 1) + "e200" : value;
                }
            }
        }
        const std::string html = to_html(describe_results(results));
        EXPECT_EQ(moesaic::test::XmlReader(html).check(), "");
        EXPECT_LT(html.size(), 300000U);
    }
}

/// Brackets of JSON, and plurals for machines.
TEST(ResultsPage, HasNoMarkupOfOtherLanguages) {
    const std::string html = to_html(describe_results(measure::read_results(sample)));
    for (const char* foreign : {"(s)", "[0", "{&quot;", "&quot;:"}) {
        EXPECT_EQ(html.find(foreign), std::string::npos) << html.substr(html.find(foreign) - 200, 300);
    }
    EXPECT_NE(html.find(">1 MiB<"), std::string::npos);
    EXPECT_NE(html.find("2 ranks of 2 threads"), std::string::npos) << html;
}

/// Points are compared with the limits that as many threads have.
TEST(ResultsPage, RooflineOfEveryNumberOfThreads) {
    measure::Results results;
    for (const core::index_t threads : {1, 4}) {
        const auto scale = static_cast<double>(threads);
        measure::CaseResult machine{.name = "machine", .benchmark = "machine", .threads = threads};
        for (const auto& [name, value] : {std::pair{"amx_peak", 1000}, {"dram_read", 10}, {"l2_read", 50}}) {
            machine.figures.push_back({.name = name, .unit = "", .value = value * scale});
        }
        results.cases.push_back(machine);
        measure::CaseResult layer{
            .name = "layer@1x" + std::to_string(threads), .benchmark = "layer", .threads = threads};
        measure::Figure time{"layer_forward", "ms", measure::Better::lower, 10 / scale,
                             measure::summarize({10 / scale})};
        time.work = measure::Work{4e9, 62.5e6};
        time.quantity = measure::figures::layer_forward;
        time.parameters = {{"tokens", "64"}};
        layer.figures.push_back(time);
        measure::Figure speed{"gemm_M16", "GFLOP/s", measure::Better::higher, 300, measure::summarize({300})};
        speed.work = measure::Work{1e6, 5e4};
        speed.quantity = "gemm";
        layer.figures.push_back(speed);
        results.cases.push_back(layer);
    }
    const std::string csv = to_csv(describe_results(results));
    for (const char* line :
         {"1 thread each\",1,dram_read 10 GB/s,GFLOP/s,100\r\n", "1 thread each\",1,l2_read 50 GB/s,GFLOP/s,500\r\n",
          "4 threads each\",1,dram_read 40 GB/s,GFLOP/s,400\r\n",
          "4 threads each\",1,l2_read 200 GB/s,GFLOP/s,2000\r\n",
          // Lines in order of operations per byte; 4e9 operations in 10 and in 2.5 ms.
          "1 thread each\",3,operations per byte from memory,FLOP/B,64\r\n",
          "1 thread each\",3,layer layer_forward,GFLOP/s,400\r\n",
          "4 threads each\",3,layer layer_forward,GFLOP/s,1600\r\n", "1 thread each\",2,layer gemm,GFLOP/s,300\r\n"}) {
        EXPECT_NE(csv.find(line), std::string::npos) << line << csv;
    }
    // The same figure has the same colour in both.
    const Document page = describe_results(results);
    std::map<std::string, std::set<std::size_t>> styles;
    for (const Block& block : page.sections.front().blocks) {
        for (const Series& series : std::get<LineChart>(std::get<Figure>(block).chart).series) {
            if (series.style) {
                styles[series.name].insert(*series.style);
            }
        }
    }
    ASSERT_EQ(styles.size(), 2U);
    for (const auto& [name, of_name] : styles) {
        EXPECT_EQ(of_name.size(), 1U) << name;
    }
}

}  // namespace
}  // namespace moesaic::report
