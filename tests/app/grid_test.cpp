// How a run gets its grid, and what tries others: train, plan, bench step and tune as a user meets them.
#include "app/program.hpp"
#include "io/files.hpp"
#include "measure/results.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>

namespace moesaic::app {
namespace {

using moesaic::test::TemporaryFolder;
using test::alone;
using test::moesaic;
using test::Result;

const std::string reference = MOESAIC_TEST_DATA "/qwen3_moe";

/// How often a text matches.
std::ptrdiff_t count(const std::string& text, const std::string& pattern) {
    const std::regex regex(pattern);
    return std::distance(std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator());
}

TEST(AutomaticGrid, IsSaidWhereThereIsAChoice) {
    const TemporaryFolder folder;
    const auto train = [&](const std::string& output, const std::string& more) {
        return "train --compute.precision fp32 --train.steps 2 --model.path " + reference + " --data.train " +
               reference + "/train.jsonl --output.dir " + (folder / output).string() + " " + more;
    };
    const std::string line =
        "\ngrid: data [12] x expert [12] x tensor [12] \\(predicted [0-9.]+ m?s a step; next data "
        "[12] x expert [12] x tensor [12], [0-9.]+ m?s\\)\n";
    const Result chosen = moesaic(2, train("auto", ""));
    EXPECT_EQ(chosen.exit_code, 0) << chosen.output;
    EXPECT_EQ(count(chosen.output, line), 1) << chosen.output;
    const Result wanted = moesaic(2, train("wanted", "--parallel.expert 2"));
    EXPECT_EQ(wanted.exit_code, 0) << wanted.output;
    EXPECT_EQ(wanted.output.find("grid: "), std::string::npos) << wanted.output;
    const Result one = alone(train("one", ""));
    EXPECT_EQ(one.exit_code, 0) << one.output;
    EXPECT_EQ(one.output.find("grid: "), std::string::npos) << one.output;
    // A run goes on with whatever grid it gets.
    const Result resumed = moesaic(2, train("one", "--train.steps 4"));
    EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_NE(resumed.output.find("resuming from "), std::string::npos) << resumed.output;
    const Result evaluated = moesaic(
        2, "eval --compute.precision fp32 --model.path " + reference + " --data.eval " + reference + "/train.jsonl");
    EXPECT_EQ(count(evaluated.output, line), 1) << evaluated.output;
}

TEST(AutomaticGrid, PlanComparesAllGrids) {
    const std::string plan = "plan --model.synthetic qwen3-30b-a3b --model.layers 1 --train.batch_size 16 ";
    const Result result = alone(plan + "--ranks 8 --memory 512G");
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("grids of 8 ranks, the best one first\n"), std::string::npos) << result.output;
    EXPECT_EQ(count(result.output,
                    "\n  data [1248] x expert [1248] x tensor [1248] +[0-9.]+ m?s( +[0-9.]+%){4} +[0-9.]+(?=\n)"),
              10)
        << result.output;
    std::smatch first;
    ASSERT_TRUE(std::regex_search(result.output, first, std::regex("GiB\n  (data . x expert . x tensor .)")));
    EXPECT_NE(result.output.find("ranks 8 = " + first[1].str()), std::string::npos) << result.output;
    // Replicas of all experts do not fit into less memory, and come last.
    const Result scarce = alone(plan + "--ranks 8 --memory 32G");
    EXPECT_EQ(scarce.exit_code, 0) << scarce.output;
    EXPECT_TRUE(std::regex_search(scarce.output, std::regex("data 8 x expert 1 x tensor 1 .* \\(does not fit\\)\n\n")))
        << scarce.output;
    EXPECT_EQ(alone(plan + "--parallel.tensor 2").output.find("grids of"), std::string::npos);
}

TEST(AutomaticGrid, StepsAreMeasuredOnAllGrids) {
    const TemporaryFolder folder;
    const std::string output = (folder / "steps.json").string();
    const Result result = moesaic(2,
                                  "bench step --threads 1 --batch 2 --length 7 --repeat 1 --seconds 0 --grids all "
                                  "--model.path " +
                                      reference + " --output " + output);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const measure::Results results = measure::read_results(output);
    std::set<std::string> names;
    int choices = 0;
    for (const measure::CaseResult& found : results.cases) {
        names.insert(found.name);
        for (const auto& [key, value] : found.parameters) {
            choices += key == "grid.choice" && value == "auto" ? 1 : 0;
        }
        ASSERT_NE(found.find("step_predicted"), nullptr) << found.name;
        const auto part = [&](const std::string& of) { return found.find("step_predicted_" + of)->value; };
        EXPECT_NEAR(found.find("step_predicted")->value,
                    part("experts") + part("other") + part("exchange") + part("reduction"), 1e-9);
    }
    EXPECT_EQ(names, (std::set<std::string>{"step.data1-expert1-tensor2", "step.data1-expert2-tensor1",
                                            "step.data2-expert1-tensor1"}));
    EXPECT_EQ(choices, 1);
    EXPECT_TRUE(
        std::regex_search(result.output, std::regex("\ngrids, the fastest first .*\n(  data .*%( +auto)?\n){3}")))
        << result.output;
}

TEST(Tune, WritesAConfigurationThatTrains) {
    const TemporaryFolder folder;
    const std::string file = (folder / "tuned.cfg").string();
    const std::string run = "--model.path " + reference + " --data.train " + reference + "/train.jsonl ";
    const Result tuned = moesaic(2, "tune --write " + file + " --tries 5 --steps 1 --train.lr 2e-3 " + run);
    ASSERT_EQ(tuned.exit_code, 0) << tuned.output;
    EXPECT_EQ(count(tuned.output,
                    "\n +[0-9.]+ +[0-9.]+  data [12] x expert [12] x tensor [12], chunks (auto|[0-9]), "
                    "micro-batch (all|[0-9]), (retain|recompute)(?=\n)"),
              5)
        << tuned.output;
    const std::string text = io::read_file(file, 10000);
    for (const char* key : {"tensor = ", "expert = ", "data = ", "chunks = ", "micro_batch = ", "activations = "}) {
        EXPECT_NE(text.find(std::string("\n") + key), std::string::npos) << text;
    }
    EXPECT_EQ(text.find("tries"), std::string::npos) << text;
    EXPECT_NE(text.find("lr = 0.002"), std::string::npos) << text;
    const Result trained =
        moesaic(2, "train --config " + file + " --train.steps 1 --output.dir " + (folder / "run").string());
    EXPECT_EQ(trained.exit_code, 0) << trained.output;
    EXPECT_EQ(trained.output.find("grid: "), std::string::npos) << trained.output;
}

TEST(Tune, AloneSuggestsHowToStart) {
    const Result result = alone("tune --model.path " + reference);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_TRUE(
        std::regex_search(result.output, std::regex("moesaic-run -n [0-9]+ tune .* --parallel.threads [0-9]+\n")))
        << result.output;
    const Result refused = alone("tune --compute.precision fp32 --model.path " + reference);
    EXPECT_EQ(refused.exit_code, 2) << refused.output;
    EXPECT_EQ(alone("tune --write /nonexistent/tuned.cfg --model.path " + reference).exit_code, 2);
}

}  // namespace
}  // namespace moesaic::app
