// Speed-up and efficiency, and the case that the headline comes from.
#include "measure/scaling.hpp"

#include "measure/headline.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace moesaic::measure {
namespace {

CaseResult make_case(const std::string& name, index_t ranks, index_t threads, bool alone, Better better, double value) {
    CaseResult result{.name = name + "@" + std::to_string(ranks) + "x" + std::to_string(threads), .benchmark = name};
    result.ranks = ranks;
    result.threads = threads;
    result.alone = alone;
    const std::vector<double> samples(7, value);
    result.figures = {{"figure", "", better, value, summarize(samples), {}, samples}};
    return result;
}

TEST(Scaling, IsOfTheWorkOfAllRanks) {
    // Two ranks that each do the whole layer in the same time do twice the work.
    const std::vector<CaseResult> alone = {make_case("layer", 1, 2, true, Better::lower, 10),
                                           make_case("layer", 2, 2, true, Better::lower, 10)};
    const std::vector<CaseResult> shared = {make_case("step", 1, 2, false, Better::lower, 10),
                                            make_case("step", 2, 2, false, Better::lower, 8)};
    const std::vector<CaseResult> rate = {make_case("step", 1, 1, false, Better::higher, 100),
                                          make_case("step", 1, 4, false, Better::higher, 300)};
    for (const auto& [cases, speed_up, efficiency] :
         {std::tuple{alone, 2.0, 100.0}, {shared, 1.25, 62.5}, {rate, 3.0, 75.0}}) {
        const std::vector<Scaling> all = scaling_of(cases);
        ASSERT_EQ(all.size(), 1U);
        ASSERT_EQ(all[0].points.size(), 2U);
        EXPECT_DOUBLE_EQ(all[0].points[0].speed_up, 1);
        EXPECT_DOUBLE_EQ(all[0].points[1].speed_up, speed_up);
        EXPECT_DOUBLE_EQ(all[0].points[1].efficiency_percent, efficiency);
        EXPECT_DOUBLE_EQ(all[0].points[1].low, speed_up);
    }
}

TEST(Scaling, HasLimitsOfTheMachineAndNothingWithoutDirection) {
    const auto found = scaling_of(
        {make_case("machine", 1, 1, true, Better::neither, 100), make_case("machine", 1, 2, true, Better::neither, 150),
         make_case("step", 1, 1, false, Better::neither, 100), make_case("step", 1, 2, false, Better::neither, 150)});
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].name, "machine");
    EXPECT_DOUBLE_EQ(found[0].points[1].efficiency_percent, 75);
}

TEST(Headline, IsTheFastestReferenceWithAnInterval) {
    std::vector<CaseResult> cases;
    for (const auto& [threads, speed, samples] :
         {std::tuple{1, 100.0, 7}, {2, 190.0, 7}, {4, 170.0, 7}, {8, 400.0, 5}}) {
        CaseResult result = make_case("reference", 1, threads, false, Better::higher, speed);
        result.figures[0].name = "step_tokens_per_second";
        result.figures[0].unit = "tokens/s";
        result.figures[0].summary = summarize(std::vector<double>(static_cast<std::size_t>(samples), speed));
        cases.push_back(result);
    }
    const auto headline = headline_of(cases);
    ASSERT_TRUE(headline);
    EXPECT_EQ(headline->value, 190);
    EXPECT_EQ(headline->case_name, "reference@1x2");
    EXPECT_EQ(headline->unit, "tokens/s");
    EXPECT_FALSE(headline_of({cases.back()}));
    EXPECT_FALSE(headline_of({make_case("step", 1, 1, false, Better::higher, 1)}));
}

TEST(BestOf, IsTheMedianOfTheBestQuarter) {
    EXPECT_EQ(best_of({7}), 7);
    EXPECT_EQ(best_of({1, 2, 3, 4}), 4);
    EXPECT_EQ(best_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 100}), 9);
}

}  // namespace
}  // namespace moesaic::measure
