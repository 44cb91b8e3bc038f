// moesaic bench as a user runs it, on shapes that take seconds.
#include "app/program.hpp"
#include "io/json.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

namespace moesaic::app {
namespace {

using test::error_lines;
using test::moesaic;
using test::Result;

const std::string tiny_kernels = "bench kernels --m 1,7 --n 40 --k 33 --repeat 2 --threads 1 ";
const std::string tiny_layer =
    "bench layer --hidden 48 --intermediate 20 --experts 5 --experts-per-token 2 --tokens 9 --layers 2 --repeat 2 "
    "--threads 1 --lora.rank 3 ";

/// Names in lines of the form that scripts look for.
std::set<std::string> figures(const std::string& output) {
    std::set<std::string> names;
    const std::regex line(R"(^FOM (\S+) = (\S+) (\S+)$)", std::regex::multiline);
    for (auto match = std::sregex_iterator(output.begin(), output.end(), line); match != std::sregex_iterator();
         ++match) {
        names.insert((*match)[1]);
        EXPECT_TRUE(std::isfinite(std::stod((*match)[2]))) << match->str();
    }
    return names;
}

void expect_figures(const std::string& output, std::vector<std::string> expected) {
    const auto found = figures(output);
    for (const std::string& name : expected) {
        EXPECT_TRUE(found.contains(name)) << name << " is missing in\n" << output;
    }
    EXPECT_TRUE(found.contains("amx_peak") || found.contains("isa_peak")) << output;
}

/// Without mpirun, whose start takes longer than all of these.
Result alone(const std::string& arguments) {
    return test::shell(std::string(MOESAIC_PROGRAM) + " " + arguments);
}

void expect_error(const std::string& arguments, int exit_code, const std::string& part) {
    const Result result = alone(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.output;
    const auto lines = error_lines(result.output);
    ASSERT_EQ(lines.size(), 1U) << result.output;
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
    EXPECT_EQ(result.output.find("FOM"), std::string::npos) << result.output;
}

TEST(BenchProgram, KernelsPrintsItsFigures) {
    for (const std::string& more : {std::string(), std::string("--cold true --compute.isa portable")}) {
        const Result result = alone(tiny_kernels + more);
        EXPECT_EQ(result.exit_code, 0) << result.output;
        expect_figures(result.output, {"gemm_M1", "gemm_M7", "gemm_backward_M7", "gemm_contraction_M7", "dram_read"});
    }
}

const std::vector<std::string> layer_figures = {"layer_forward",
                                                "layer_backward",
                                                "layer_forward_floor",
                                                "layer_backward_floor",
                                                "lora_overhead",
                                                "dram_read",
                                                "weight_bytes_per_parameter",
                                                "activation_bytes_per_token",
                                                "error_output",
                                                "error_grad_input",
                                                "error_grad_lora"};

TEST(BenchProgram, LayerPrintsItsFigures) {
    const Result result = alone(tiny_layer + "--routing skewed");
    EXPECT_EQ(result.exit_code, 0) << result.output;
    expect_figures(result.output, layer_figures);
}

TEST(BenchProgram, FrozenLayerHasNoLoraFigures) {
    const Result frozen = alone(
        "bench layer --hidden 48 --intermediate 20 --experts 5 --experts-per-token 2 "
        "--tokens 3,9 --layers 1 --repeat 1 --lora.rank 0 --routing hot");
    EXPECT_EQ(frozen.exit_code, 0) << frozen.output;
    expect_figures(frozen.output, {"layer_forward_T3", "layer_backward_T9", "error_grad_input"});
    EXPECT_FALSE(figures(frozen.output).contains("lora_overhead"));
    EXPECT_FALSE(figures(frozen.output).contains("error_grad_lora"));
}

TEST(BenchProgram, TwoRanksPrintOnceAndWriteJson) {
    const auto file = std::filesystem::temp_directory_path() / ("moesaic-bench-" + std::to_string(getpid()) + ".json");
    const Result result = moesaic(2, tiny_layer + "--output " + file.string());
    ASSERT_EQ(result.exit_code, 0) << result.output;
    expect_figures(result.output, layer_figures);
    EXPECT_EQ(result.output.find("FOM layer_forward "), result.output.rfind("FOM layer_forward "));
    const nlohmann::json document = io::read_json(file);
    std::filesystem::remove(file);
    EXPECT_EQ(document["schema"], "moesaic-bench-1");
    EXPECT_EQ(document["benchmark"], "layer");
    for (const char* key : {"cpu", "host", "isa", "ranks", "threads", "compiler", "git_revision"}) {
        EXPECT_TRUE(document["environment"].contains(key)) << key;
    }
    EXPECT_EQ(document["environment"]["ranks"], 2);
    const auto& entries = document["figures"];
    EXPECT_EQ(entries.size(), figures(result.output).size());
    const auto forward = std::find_if(entries.begin(), entries.end(),
                                      [](const nlohmann::json& entry) { return entry["name"] == "layer_forward"; });
    ASSERT_NE(forward, entries.end());
    EXPECT_EQ((*forward)["unit"], "ms");
    EXPECT_EQ((*forward)["n"], 2);
    EXPECT_EQ((*forward)["value"], (*forward)["median"]);
    EXPECT_LE((*forward)["min"].get<double>(), (*forward)["interval"][0].get<double>());
}

TEST(BenchProgram, StepPrintsItsFigures) {
    const std::string step = "bench step --model.path " MOESAIC_TEST_DATA "/qwen3_moe --batch 3 --length 7 --repeat 2 ";
    for (const auto& [ranks, more] : {std::pair{1, "--activations recompute"},
                                      {2, "--parallel.tensor 2"},
                                      {2, "--parallel.expert 2 --parallel.tensor 1"},
                                      {2, "--parallel.data 2 --parallel.tensor 1 --micro-batch 1 --model.layers 2"}}) {
        const Result result = moesaic(ranks, step + "--threads 1 " + more);
        EXPECT_EQ(result.exit_code, 0) << result.output;
        expect_figures(result.output,
                       {"step_seconds", "step_tokens_per_second", "step_forward", "step_backward", "step_loss",
                        "step_transfer", "step_waiting", "step_imbalance", "exchange_bytes_per_token", "memory_plan",
                        "memory_peak", "error_log_probability", "error_grad_lora"});
    }
}

TEST(BenchProgram, StepRefusesWhatDoesNotFit) {
    expect_error("bench step --model.synthetic qwen3-235b-a22b --batch 100000", 5, "qwen3-235b-a22b: about ");
    expect_error("bench step", 2, "model.path is not set");
    expect_error("bench step --model.synthetic qwen3-30b-a3", 2, "did you mean qwen3-30b-a3b?");
    expect_error("bench step --model.synthetic qwen3-30b-a3b --model.path a", 2, "are both set");
}

TEST(BenchProgram, UsageErrorsExplainThemselves) {
    expect_error("bench layr", 2, "did you mean bench layer?");
    expect_error("bench layer --shape qwen3-30b-a3", 2, "did you mean qwen3-30b-a3b?");
    expect_error("bench kernels --shape mixtral", 2, "models are qwen3-30b-a3b");
    expect_error("bench layer --tokens 12,x", 2, "tokens = 12,x");
    expect_error("bench layer --routing unifrm", 2, "must be one of uniform, skewed, hot");
    expect_error(tiny_layer + "--threads 2", 2, "threads is set twice");
    expect_error("bench layer --token 12", 2, "did you mean tokens?");
    expect_error("bench layer --experts 4", 2, "experts-per-token = 8 exceeds experts = 4");
    expect_error("bench kernels --output /nonexistent/a.json", 2, "no folder /nonexistent");
    expect_error("bench layer --shape deepseek-v3 --layers 500", 5, "GiB");
    EXPECT_EQ(alone("bench").exit_code, 2);
    const Result help = alone("bench --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.output.find("bench kernels"), std::string::npos) << help.output;
}

TEST(BenchProgram, CollectivesPrintsTimeAndBandwidthOfEverySize) {
    for (const int ranks : {2, 3}) {
        const Result result = moesaic(ranks, "bench collectives --bytes 8,4096 --repeat 2");
        EXPECT_EQ(result.exit_code, 0) << result.output;
        const auto found = figures(result.output);
        for (const char* operation :
             {"ping_pong", "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "gather"}) {
            for (const char* rest : {"_8", "_8_bandwidth", "_4096", "_4096_bandwidth"}) {
                EXPECT_TRUE(found.contains(std::string(operation) + rest)) << operation << rest << result.output;
            }
        }
    }
    expect_error("bench collectives", 2, "one rank");
    expect_error("bench collectives --bytes 8,6", 2, "multiple of 4");
}

}  // namespace
}  // namespace moesaic::app
