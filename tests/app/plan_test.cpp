// moesaic plan, and models without files, as a user meets them.
#include "app/program.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <regex>
#include <sstream>

namespace moesaic::app {
namespace {

using test::alone;
using test::Result;

const std::string reference = MOESAIC_TEST_DATA "/qwen3_moe";

/// GiB in the line of the table that begins with `purpose`.
double gib(const std::string& output, const std::string& purpose) {
    std::smatch match;
    const bool found = std::regex_search(output, match, std::regex("\n  " + purpose + " +([0-9.]+)\n"));
    EXPECT_TRUE(found) << purpose << " is missing in\n" << output;
    return found ? std::stod(match[1]) : 0;
}

/// GiB of all lines of weights, the ones with a format.
double weights(const std::string& output) {
    double sum = 0;
    const std::regex line("\n  [a-z ]+, [A-Z0-9]+ +([0-9.]+)(?=\n)");
    for (std::sregex_iterator found(output.begin(), output.end(), line), end; found != end; ++found) {
        sum += std::stod((*found)[1]);
    }
    EXPECT_GT(sum, 0) << output;
    return sum;
}

TEST(PlanProgram, SumsUpWhatARankNeeds) {
    const Result result = alone("plan --model.path " + reference + " --data.max_length 512 --train.batch_size 64");
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const double saving = result.output.find("\n  saving ") == std::string::npos ? 0 : gib(result.output, "saving");
    EXPECT_NEAR(gib(result.output, "all"),
                weights(result.output) + gib(result.output, "LoRA factors") + gib(result.output, "gradients") +
                    gib(result.output, "optimizer") + gib(result.output, "activations") +
                    gib(result.output, "work buffers") + saving,
                0.005);
    EXPECT_NE(result.output.find("fits: "), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("(recompute)"), std::string::npos) << result.output;
}

TEST(PlanProgram, PlansForRanksThatDoNotRun) {
    const std::string plan = "plan --model.synthetic qwen3-30b-a3b --model.layers 1 --train.batch_size 8 ";
    const Result one = alone(plan);
    const Result many = alone(plan + "--parallel.data 4 --parallel.tensor 2");
    ASSERT_EQ(many.exit_code, 0) << many.output;
    EXPECT_NE(many.output.find("ranks 8 = data 4 x expert 1 x tensor 2"), std::string::npos) << many.output;
    EXPECT_LT(gib(many.output, "optimizer"), gib(one.output, "optimizer") / 2);
    EXPECT_LT(gib(many.output, "activations"), gib(one.output, "activations") / 4);
    EXPECT_LT(gib(many.output, "LoRA factors"), gib(one.output, "LoRA factors"));
    const Result groups = alone(plan + "--parallel.expert 8 --parallel.tensor 2");
    EXPECT_NE(groups.output.find("ranks 16 = data 1 x expert 8 x tensor 2"), std::string::npos) << groups.output;
    EXPECT_LT(weights(groups.output), weights(many.output));
    EXPECT_LT(gib(groups.output, "LoRA factors"), gib(many.output, "LoRA factors") / 4);
}

/// The ranks of a host count weights that they share once; more replicas on more hosts do not share more.
TEST(PlanProgram, RanksOfAHostShareReplicatedWeights) {
    const std::string plan =
        "plan --model.synthetic qwen3-30b-a3b --model.layers 1 --train.batch_size 8 --parallel.data 2 "
        "--parallel.tensor 4 ";
    const Result own = alone(plan);
    const Result shared = alone(plan + "--model.share host");
    ASSERT_EQ(shared.exit_code, 0) << shared.output;
    for (const char* purpose : {"attention and dense, BF16", "embedding and head, BF16"}) {
        EXPECT_NEAR(gib(shared.output, purpose), gib(own.output, purpose) / 4, 0.001) << purpose;
    }
    EXPECT_NEAR(gib(own.output, "all") - gib(shared.output, "all"), 0.75 * 1.199, 0.005);
    EXPECT_EQ(gib(shared.output, "experts, BF16"), gib(own.output, "experts, BF16"));
    EXPECT_NE(shared.output.find("attention, dense, embedding and head: 1.199 GiB, shared by the ranks of a host"),
              std::string::npos)
        << shared.output;
    const Result refused = alone(plan + "--memory 12G --train.micro_batch 1");
    EXPECT_EQ(refused.exit_code, 5) << refused.output;
    EXPECT_NE(refused.output.find("would fit: --model.share host ("), std::string::npos) << refused.output;
    EXPECT_EQ(alone(plan + "--memory 12G --train.micro_batch 1 --model.share host").exit_code, 0);
}

TEST(PlanProgram, ExpertsInFewerBitsTakeLess) {
    const std::string plan = "plan --model.synthetic mixtral-8x7b --model.layers 1 --model.weights ";
    const double gibibytes_of_bf16 = 2.0 * 8 * 3 * 4096 * 14336 / (1U << 30U);
    const double all = weights(alone(plan + "bf16").output);
    EXPECT_EQ(weights(alone(plan + "auto").output), all);
    EXPECT_GT(gib(alone(plan + "int4").output, "experts, INT4"), 0.5);
    for (const auto& [format, bytes] :
         std::map<std::string, double>{{"fp8", 1.125}, {"int8", 1.125}, {"int4", 0.5625}, {"mxfp4", 0.5625}}) {
        const double saved = all - weights(alone(plan + format).output);
        EXPECT_NEAR(saved, gibibytes_of_bf16 * (1 - bytes / 2), 0.01 * gibibytes_of_bf16) << format;
    }
    EXPECT_NE(alone(plan + "int5").output.find("must be one of auto, bf16, fp8, int8, int4, mxfp4"), std::string::npos);
    EXPECT_NE(alone("plan --load_in_4bit true").output.find("here it is model.weights"), std::string::npos);
}

/// Experts are padded to the largest rank that a pattern gives one of them.
TEST(PlanProgram, CountsRanksOfPatterns) {
    const std::string plan =
        "plan --model.synthetic qwen3-30b-a3b --model.layers 1 --train.batch_size 1 "
        "--data.max_length 48 ";
    const Result small = alone(plan);
    const Result pattern = alone(plan + "--lora.rank_pattern down_proj=256");
    const Result rank = alone(plan + "--lora.rank 256");
    for (const char* purpose : {"LoRA factors", "gradients", "optimizer", "activations", "work buffers"}) {
        EXPECT_EQ(gib(pattern.output, purpose), gib(rank.output, purpose)) << purpose;
    }
    EXPECT_GT(gib(pattern.output, "LoRA factors"), 20 * gib(small.output, "LoRA factors"));
}

/// Weights of a BF16 checkpoint stay BF16 in an FP32 run, and for the auxiliary loss sigmoid routers keep the softmax
/// of their logits, too: 256 floats for each of 262,144 tokens and two layers.
TEST(PlanProgram, PlansTheModelThatTrainMakes) {
    const std::string quickstart =
        "plan --model.path " MOESAIC_TEST_DATA "/../../inputs/quickstart --compute.precision ";
    const double in_bf16 = weights(alone(quickstart + "bf16").output);
    EXPECT_GT(in_bf16, 0);
    EXPECT_EQ(weights(alone(quickstart + "fp32").output), in_bf16);
    const std::string sigmoid =
        "plan --model.synthetic deepseek-v3 --model.layers 5 --train.batch_size 64 --train.micro_batch 64 "
        "--data.max_length 4096 ";
    EXPECT_NEAR(gib(alone(sigmoid + "--train.router_aux_coef 0.01").output, "activations"),
                gib(alone(sigmoid).output, "activations") + 0.5, 0.0011);
}

TEST(PlanProgram, SaysWhatIsAdapted) {
    const Result result = alone("plan --model.path " + reference + " --lora.targets experts,attention --lora.rank 4");
    EXPECT_NE(result.output.find("\nadapted: 72 x experts (rank 4), 3 x o_proj (rank 4), "), std::string::npos)
        << result.output;
    EXPECT_NE(result.output.find(" of 823.4 k parameters ("), std::string::npos) << result.output;
    const Result adapter = alone("plan --model.path " + reference + " --lora.init " + reference + "/adapter_init");
    EXPECT_NE(adapter.output.find("\nadapted: 72 x experts (rank 8); "), std::string::npos) << adapter.output;
}

TEST(PlanProgram, SizesBeyondAllSenseAreRefused) {
    const std::string plan = "plan --model.path " + reference;
    for (const char* option : {"data.max_length", "train.batch_size", "train.micro_batch"}) {
        const Result result = alone(plan + " --" + option + " 9223372036854775807");
        EXPECT_EQ(result.exit_code, 2) << result.output;
        EXPECT_NE(result.output.find(option), std::string::npos) << result.output;
    }
    const Result largest = alone(plan + " --data.max_length 2147483647 --train.batch_size 2147483647");
    EXPECT_EQ(largest.exit_code, 5) << largest.output;
}

TEST(PlanProgram, CountsTheRanksOfANode) {
    const std::string plan = "plan --model.path " + reference + " --parallel.expert 2 ";
    const Result running = test::moesaic(4, plan + "--parallel.tensor 2");
    EXPECT_NE(running.output.find("= data 1 x expert 2 x tensor 2"), std::string::npos) << running.output;
    EXPECT_NE(running.output.find(" with 4 ranks on it\n"), std::string::npos) << running.output;
    const Result planned = alone(plan + "--parallel.data 1 --parallel.tensor 2");
    EXPECT_NE(planned.output.find(" with 2 ranks on it (a tensor group"), std::string::npos) << planned.output;
}

TEST(PlanProgram, PlansForOtherHosts) {
    const std::string plan =
        "plan --model.synthetic qwen3-30b-a3b --parallel.tensor 2 --parallel.data 2 --topology \"numa:2 core:8 pu:2\" ";
    const Result large = alone(plan + "--memory 1T");
    EXPECT_EQ(large.exit_code, 0) << large.output;
    EXPECT_NE(large.output.find("8 threads each"), std::string::npos) << large.output;
    EXPECT_NE(large.output.find("on a host with 1024.0 GiB with 2 ranks on it"), std::string::npos) << large.output;
    const Result small = alone(plan + "--memory 16G");
    EXPECT_EQ(small.exit_code, 5) << small.output;
    EXPECT_NE(small.output.find("GiB are available on a host with 16.0 GiB"), std::string::npos) << small.output;
    EXPECT_EQ(alone(plan + "--memory 16Q").exit_code, 2);
}

/// The sequences of the reference case are far shorter than data.max_length.
TEST(PlanProgram, TakesLengthsFromTheData) {
    const std::string plan = "plan --model.path " + reference;
    const Result guessed = alone(plan);
    const Result known = alone(plan + " --data.train " + reference + "/train.jsonl");
    ASSERT_EQ(known.exit_code, 0) << known.output;
    EXPECT_LT(gib(known.output, "activations"), gib(guessed.output, "activations") / 4);
    EXPECT_NE(known.output.find("tokens in the longest of "), std::string::npos) << known.output;
}

TEST(PlanProgram, LimitsOfTheProcessCount) {
    const std::string limited = "ulimit -v 1500000; " MOESAIC_PROGRAM " ";
    const Result plan = test::shell(limited + "plan --model.synthetic moesaic-reference --train.batch_size 64");
    EXPECT_EQ(plan.exit_code, 5) << plan.output;
    EXPECT_NE(plan.output.find("ulimit -v (RLIMIT_AS) is 1.43 GiB"), std::string::npos) << plan.output;
    const Result doctor = test::shell(limited + "doctor");
    EXPECT_NE(doctor.output.find("note: its memory is limited (ulimit -v (RLIMIT_AS) is 1.43 GiB)"), std::string::npos)
        << doctor.output;
}

TEST(PlanProgram, WhatDoesNotFitEndsWithExitCode5) {
    const Result result = alone("plan --model.synthetic qwen3-235b-a22b --train.batch_size 1000000");
    EXPECT_EQ(result.exit_code, 5) << result.output;
    EXPECT_GT(weights(result.output), 400);
    ASSERT_EQ(test::error_lines(result.output).size(), 1U) << result.output;
}

/// What does not fit is followed by options that do, each of which this tries.
TEST(PlanProgram, SuggestionsFit) {
    const std::string plan =
        "plan --model.synthetic mixtral-8x7b --model.layers 4 --memory 12G --train.batch_size 8 --train.micro_batch 8 ";
    const Result result = alone(plan);
    EXPECT_EQ(result.exit_code, 5) << result.output;
    const std::regex line("\nwould fit: (--[^(]+) \\(([0-9.]+) GiB per rank");
    int suggestions = 0;
    for (std::sregex_iterator found(result.output.begin(), result.output.end(), line), end; found != end; ++found) {
        ++suggestions;
        const Result followed = alone(plan + (*found)[1].str());
        EXPECT_EQ(followed.exit_code, 0) << (*found)[1] << "\n" << followed.output;
        EXPECT_NEAR(gib(followed.output, "all"), std::stod((*found)[2]), 0.06) << (*found)[1];
    }
    EXPECT_GE(suggestions, 2) << result.output;
    ASSERT_EQ(test::error_lines(result.output).size(), 1U) << result.output;
    EXPECT_NE(test::error_lines(result.output).front().find("; try --"), std::string::npos) << result.output;
}

/// The table of what fits, in lines that fit a narrow terminal.
TEST(PlanProgram, SaysWhatFitsOnHowManyRanks) {
    const Result result = alone("plan --model.synthetic kimi-k2 --memory 512G --parallel.tensor 2 --parallel.expert 8");
    EXPECT_NE(result.output.find("\n  ranks                          2       4       8      16\n"), std::string::npos)
        << result.output;
    EXPECT_TRUE(std::regex_search(result.output, std::regex("\n  bf16        retain +- +- +- +[0-9-]+\n")))
        << result.output;
    EXPECT_TRUE(std::regex_search(result.output, std::regex("\n  int4        recompute .*[0-9]\\+?\n")))
        << result.output;
    std::istringstream lines(result.output);
    for (std::string text; std::getline(lines, text);) {
        EXPECT_TRUE(text.size() <= 100 || text.starts_with("adapted:") || text.starts_with("fits:") ||
                    text.starts_with("would fit:") || text.starts_with("moesaic: "))
            << text;
    }
}

/// Steps from the data or train.steps, and a time that follows the options.
TEST(PlanProgram, EstimatesSteps) {
    const std::string plan = "plan --model.path " + reference + " --data.train " + reference + "/train.jsonl ";
    const Result known = alone(plan + "--train.epochs 3 --train.batch_size 4");
    ASSERT_EQ(known.exit_code, 0) << known.output;
    const auto steps = [](const Result& result) {
        std::smatch match;
        return std::regex_search(result.output, match, std::regex("\nsteps: ([0-9]+), ")) ? std::stoi(match[1]) : -1;
    };
    EXPECT_GT(steps(known), 0) << known.output;
    EXPECT_EQ(steps(alone(plan + "--train.epochs 6 --train.batch_size 4")), 2 * steps(known));
    EXPECT_EQ(steps(alone(plan + "--train.steps 7")), 7);
    EXPECT_NE(known.output.find("\ntime, an estimate: "), std::string::npos) << known.output;
    EXPECT_NE(known.output.find(" hours\n"), std::string::npos) << known.output;
    EXPECT_TRUE(std::regex_search(known.output, std::regex("GB/s of a rank \\(measured (now|earlier)\\)")))
        << known.output;
    const Result guessed = alone("plan --model.path " + reference + " --memory 1T");
    EXPECT_NE(guessed.output.find("\nsteps: as many as data.train and train.epochs make"), std::string::npos)
        << guessed.output;
    EXPECT_EQ(guessed.output.find(" hours"), std::string::npos) << guessed.output;
    EXPECT_NE(guessed.output.find("that of this machine, not of the one that is planned for"), std::string::npos)
        << guessed.output;
    EXPECT_NE(alone(plan + "--compute.precision fp32").output.find("not estimated for FP32"), std::string::npos);
}

/// The time that a result of benchmarks gives is that of its machine.
TEST(PlanProgram, TakesTheSpeedOfABenchmark) {
    const auto file = std::filesystem::temp_directory_path() / ("moesaic-speed-" + std::to_string(getpid()) + ".json");
    const Result bench = alone("bench machine --repeat 1 --seconds 0.1 --output " + file.string());
    ASSERT_EQ(bench.exit_code, 0) << bench.output;
    const std::string plan = "plan --model.path " + reference + " --benchmark ";
    const Result planned = alone(plan + file.string());
    EXPECT_EQ(planned.exit_code, 0) << planned.output;
    EXPECT_NE(planned.output.find("of a rank (" + file.string() + ", machine)\n"), std::string::npos) << planned.output;
    std::filesystem::remove(file);
    const Result missing = alone(plan + file.string());
    EXPECT_NE(missing.exit_code, 0) << missing.output;
    EXPECT_EQ(test::error_lines(missing.output).size(), 1U) << missing.output;
}

TEST(SyntheticModel, TrainingRefusesBeforeItAllocates) {
    const auto folder = std::filesystem::temp_directory_path() / ("moesaic-plan-" + std::to_string(getpid()));
    const Result result = alone("train --model.synthetic qwen3-235b-a22b --lora.rank 65536 --data.train " + reference +
                                "/train.jsonl --output.dir " + folder.string());
    std::filesystem::remove_all(folder);
    EXPECT_EQ(result.exit_code, 5) << result.output;
    EXPECT_NE(result.output.find("qwen3-235b-a22b: about "), std::string::npos) << result.output;
    EXPECT_FALSE(std::filesystem::exists(folder));
}

/// `train` says the same as `plan`.
TEST(SyntheticModel, TrainingSuggestsWhatFits) {
    const auto folder = std::filesystem::temp_directory_path() / ("moesaic-fits-" + std::to_string(getpid()));
    const std::string options = " --model.synthetic mixtral-8x7b --model.layers 1 --data.train " + reference +
                                "/train.jsonl --output.dir " + folder.string();
    const auto limited = [&](const std::string& command) {
        return test::shell("ulimit -v 4000000; " MOESAIC_PROGRAM " " + command + options);
    };
    const Result result = limited("train");
    EXPECT_EQ(result.exit_code, 5) << result.output;
    ASSERT_EQ(test::error_lines(result.output).size(), 1U) << result.output;
    EXPECT_NE(result.output.find("; try --model.weights int"), std::string::npos) << result.output;
    EXPECT_FALSE(std::filesystem::exists(folder));
    const std::regex advice("; try (--[^(]+) ");
    std::smatch from_train;
    std::smatch from_plan;
    const Result plan = limited("plan");
    ASSERT_TRUE(std::regex_search(result.output, from_train, advice)) << result.output;
    ASSERT_TRUE(std::regex_search(plan.output, from_plan, advice)) << plan.output;
    EXPECT_EQ(from_train[1], from_plan[1]);
}

TEST(SyntheticModel, LayersOfACheckpointCanBeLimited) {
    const std::string eval = "eval --model.path " + reference + " --data.eval " + reference + "/train.jsonl";
    const Result all = alone(eval);
    const Result two = alone(eval + " --model.layers 2");
    EXPECT_EQ(two.exit_code, 0) << two.output;
    const auto loss = [](const Result& result) { return result.output.substr(result.output.find("FOM eval_loss")); };
    EXPECT_NE(loss(all), loss(two));
}

}  // namespace
}  // namespace moesaic::app
