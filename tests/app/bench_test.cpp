// moesaic bench as a user runs it, on shapes that take seconds.
#include "app/program.hpp"
#include "measure/results.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

namespace moesaic::app {
namespace {

using moesaic::test::TemporaryFolder;
using test::alone;
using test::error_lines;
using test::moesaic;
using test::Result;

const std::string tiny_kernels = "bench kernels --m 1,7 --n 40 --k 33 --repeat 2 --seconds 0 --threads 1 ";
const std::string tiny_layer =
    "bench layer --hidden 48 --intermediate 20 --experts 5 --experts-per-token 2 --tokens 9 --layers 2 --repeat 2 "
    "--seconds 0 --threads 1 --lora.rank 3 ";

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
        "--tokens 3,9 --layers 1 --repeat 1 --seconds 0 --lora.rank 0 --routing hot");
    EXPECT_EQ(frozen.exit_code, 0) << frozen.output;
    expect_figures(frozen.output, {"layer_forward_T3", "layer_backward_T9", "error_grad_input"});
    EXPECT_FALSE(figures(frozen.output).contains("lora_overhead"));
    EXPECT_FALSE(figures(frozen.output).contains("error_grad_lora"));
}

TEST(BenchProgram, TwoRanksPrintOnceAndWriteJson) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder / "layer.json";
    const Result result = moesaic(2, tiny_layer + "--output " + file.string());
    ASSERT_EQ(result.exit_code, 0) << result.output;
    expect_figures(result.output, layer_figures);
    EXPECT_EQ(result.output.find("FOM layer_forward "), result.output.rfind("FOM layer_forward "));
    const measure::Results results = measure::read_results(file);
    EXPECT_EQ(results.command, "bench layer");
    EXPECT_EQ(results.ranks.size(), 2U);
    ASSERT_EQ(results.cases.size(), 1U);
    const measure::CaseResult& layer = results.cases[0];
    EXPECT_EQ(layer.ranks, 2);
    EXPECT_EQ(layer.checks.size() + layer.figures.size(), figures(result.output).size());
    EXPECT_EQ(layer.rounds, std::vector<core::index_t>{2});
    EXPECT_EQ(layer.machine->peak.size(), 2U);
    EXPECT_EQ(layer.find("layer_forward")->unit, "ms");
    EXPECT_EQ(layer.find("layer_forward")->summary.n, 2);
    EXPECT_NE(std::find(layer.parameters.begin(), layer.parameters.end(),
                        std::pair<std::string, std::string>("hidden", "48")),
              layer.parameters.end());
}

const std::string tiny_deck =
    "rounds = 2\nrepeat = 4\nseconds = 0\n[machine]\n[kernels.small]\nm = 1,7\nn = 40\nk = 33\n[layer]\nhidden = 48\n"
    "intermediate = 20\nexperts = 5\nexperts-per-token = 2\ntokens = 9\nlayers = 1\nlora.rank = 3\nranks = powers\n"
    "threads = 1\n[collectives]\nbytes = 8\n[step]\nthreads = 1\nbatch = 2\nlength = 7\nmodel.path = " MOESAIC_TEST_DATA
    "/qwen3_moe\n";

TEST(BenchSuite, RunsWhatTheDeckListsOnOneAndTwoRanks) {
    const TemporaryFolder folder;
    const std::string deck = folder.write("deck.cfg", tiny_deck).string();
    const std::string output = (folder / "result.json").string();
    for (const int ranks : {1, 2}) {
        const Result result = moesaic(ranks, "bench suite " + deck + " --kernels.small.k 34 --output " + output);
        ASSERT_EQ(result.exit_code, 0) << result.output;
        const measure::Results results = measure::read_results(output);
        std::vector<std::string> names;
        for (const measure::CaseResult& found : results.cases) {
            names.push_back(found.name);
            EXPECT_EQ(found.rounds, (std::vector<core::index_t>{2, 2})) << found.name;
            EXPECT_FALSE(found.checks.empty()) << found.name;
        }
        const std::vector<std::string> expected =
            ranks == 1
                ? std::vector<std::string>{"machine", "kernels.small", "layer", "step"}
                : std::vector<std::string>{"machine", "kernels.small", "layer@1x1", "layer@2x1", "collectives", "step"};
        EXPECT_EQ(names, expected);
        const auto& parameters = results.find("kernels.small")->parameters;
        EXPECT_EQ(std::count(parameters.begin(), parameters.end(), std::pair<std::string, std::string>("k", "34")), 1);
        EXPECT_EQ(ranks == 2, result.output.find("efficiency") != std::string::npos) << result.output;
        EXPECT_TRUE(figures(result.output).contains("kernels.small/gemm_M7")) << result.output;
        EXPECT_FALSE(results.headline.has_value());
    }
}

TEST(BenchSuite, AWrongKernelEndsItWithoutFigures) {
    const TemporaryFolder folder;
    const std::string deck = folder.write("deck.cfg", tiny_deck).string();
    const std::string output = (folder / "result.json").string();
    for (const char* launch : {"", MOESAIC_MPIRUN " -q -n 2 --oversubscribe --bind-to none "}) {
        const std::string program =
            launch + std::string(MOESAIC_PLANTED) + " bench suite " + deck + " --output " + output;
        const Result wrong = test::shell("MOESAIC_TEST_PLANT=wrong " + program);
        EXPECT_EQ(wrong.exit_code, 3) << wrong.output;
        const auto lines = error_lines(wrong.output);
        ASSERT_EQ(lines.size(), 1U) << wrong.output;
        EXPECT_NE(lines[0].find("error_gemm_contraction_M1"), std::string::npos) << lines[0];
        EXPECT_EQ(wrong.output.find("FOM"), std::string::npos) << wrong.output;
        EXPECT_FALSE(std::filesystem::exists(output));
    }
    const Result right = test::shell(std::string(MOESAIC_PLANTED) + " bench suite " + deck);
    EXPECT_EQ(right.exit_code, 0) << right.output;
}

/// A job that ends early keeps the cases that it has measured: here the second one computes a wrong result.
TEST(BenchSuite, ResultsAreThereAfterEachCase) {
    const TemporaryFolder folder;
    const std::string output = (folder / "result.json").string();
    const std::string deck =
        folder.write("deck.cfg", "repeat = 1\nseconds = 0\n[machine]\n[kernels]\nm = 1\nn = 8\nk = 8\n").string();
    const Result wrong = test::shell(std::string("MOESAIC_TEST_PLANT=wrong ") + MOESAIC_PLANTED + " bench suite " +
                                     deck + " --output " + output);
    EXPECT_EQ(wrong.exit_code, 3) << wrong.output;
    const measure::Results results = measure::read_results(output);
    EXPECT_FALSE(results.complete);
    ASSERT_EQ(results.cases.size(), 1U);
    EXPECT_EQ(results.cases[0].name, "machine");
    EXPECT_FALSE(results.headline);
}

TEST(BenchSuite, BuildsAreComparedInTurns) {
    const TemporaryFolder folder;
    const std::string deck = folder.write("deck.cfg", tiny_deck).string();
    for (const char* launch : {"", "LAUNCH='" MOESAIC_MPIRUN " -q -n 2 --oversubscribe --bind-to none' "}) {
        const Result result =
            test::shell(launch + std::string(MOESAIC_INPUTS "/../bench/examples/compare_builds.sh ") + MOESAIC_PROGRAM +
                        " " + MOESAIC_PLANTED + " " + deck + " " + (folder / "results").string() + " 3");
        EXPECT_EQ(result.exit_code, 0) << result.output;  // three rounds can't tell anything
        EXPECT_NE(result.output.find("rounds in turns"), std::string::npos) << result.output;
        for (const char* name : {"old.json", "new.json"}) {
            const measure::Results results = measure::read_results(folder / "results" / name);
            EXPECT_TRUE(results.turns);
            EXPECT_EQ(results.cases[0].rounds.size(), 3U);
        }
    }
    expect_error("bench suite " + deck + " --turns " + deck + "," + deck, 2, "no named pipe");
    const Result broken = test::shell(MOESAIC_INPUTS "/../bench/examples/compare_builds.sh " MOESAIC_PROGRAM " false " +
                                      deck + " " + (folder / "results").string() + " 3");
    EXPECT_NE(broken.exit_code, 0) << broken.output;
}

TEST(BenchSuite, ReportComparesItsFiles) {
    const std::string sample = MOESAIC_TEST_DATA "/bench/suite_two_ranks.json";
    const TemporaryFolder folder;
    const Result same = alone("report --compare " + sample + " " + sample);
    EXPECT_EQ(same.exit_code, 0) << same.output;
    EXPECT_NE(same.output.find("layer.qwen3/layer_forward"), std::string::npos) << same.output;
    measure::Results results = measure::read_results(sample);
    const auto twice = [](std::vector<double>& samples) {  // six are too few for so many figures
        const std::size_t n = samples.size();
        for (std::size_t i = 0; i < n; ++i) {
            samples.push_back(samples[i] * 1.0001);
        }
    };
    for (measure::CaseResult& found : results.cases) {
        for (measure::Figure& figure : found.figures) {
            twice(figure.samples);
        }
        if (found.machine) {
            twice(found.machine->peak);
            twice(found.machine->dram_read);
        }
        found.rounds.assign(12, 1);
    }
    const std::string normal = folder.write("normal.json", measure::to_json(results).dump()).string();
    for (measure::CaseResult& found : results.cases) {
        for (measure::Figure& figure : found.figures) {
            for (double& value : figure.samples) {
                value *= figure.name == "layer_backward" ? 1.5 : 1;
            }
        }
    }
    const std::string output = folder.write("slow.json", measure::to_json(results).dump()).string();
    const Result slower = alone("report --compare " + normal + " " + output);
    EXPECT_EQ(slower.exit_code, 3) << slower.output;
    EXPECT_NE(slower.output.find("SLOWER"), std::string::npos) << slower.output;
    EXPECT_EQ(alone("report --compare " + normal + " " + output + " --threshold 60").exit_code, 0);
    expect_error("report --compare " + normal, 2, "needs two sides");
    expect_error("report --compare " + normal + " " + folder.write("bad.json", "{}").string(), 4, "schema none");
    expect_error("report --compare " + normal + " nowhere.json", 2, "nowhere.json");
}

TEST(BenchSuite, DecksExplainTheirErrors) {
    const TemporaryFolder folder;
    expect_error("bench suite", 2, "needs a deck");
    for (const char* deck : {"nowhere.cfg", "--config nowhere.cfg", "--config=nowhere.cfg"}) {
        expect_error(std::string("bench suite ") + deck, 2, "nowhere.cfg");
    }
    expect_error("bench suite " + folder.write("a.cfg", "[layr]\n").string(), 2, "a.cfg:1: [layr] is no benchmark");
    expect_error("bench suite " + folder.write("b.cfg", "[layer]\n[layer]\n").string(), 2,
                 "b.cfg:2: [layer] is there twice");
    expect_error("bench suite " + folder.write("c.cfg", "[layer]\ntoken = 5\n").string(), 2,
                 "did you mean layer.tokens?");
    expect_error("bench suite " + folder.write("d.cfg", "repeat = 3\n").string(), 2, "lists no benchmark");
    expect_error("bench suite " + folder.write("e.cfg", "[layer]\nranks = 2\n").string(), 2, "ranks = 2 exceeds");
    for (const char* deck : {"bench-quick.cfg", "bench-full.cfg", "bench-cluster.cfg"}) {
        // All keys are understood before the output is looked at.
        expect_error(std::string("bench suite ") + MOESAIC_INPUTS "/" + deck + " --output /nowhere/a.json", 2,
                     "there is no folder /nowhere");
    }
}

TEST(BenchProgram, StepPrintsItsFigures) {
    const std::string step =
        "bench step --model.path " MOESAIC_TEST_DATA "/qwen3_moe --batch 3 --length 7 --repeat 2 --seconds 0 ";
    for (const auto& [ranks, more] : {std::pair{1, "--activations recompute"},
                                      {2, "--parallel.tensor 2 --activations layer"},
                                      {2, "--parallel.expert 2 --parallel.tensor 1"},
                                      {2, "--parallel.data 2 --parallel.tensor 1 --micro-batch 1 --model.layers 2"}}) {
        const Result result = moesaic(ranks, step + "--threads 1 " + more);
        EXPECT_EQ(result.exit_code, 0) << result.output;
        expect_figures(result.output, {"step_seconds", "step_tokens_per_second", "step_pass_sequences", "step_forward",
                                       "step_backward", "step_loss", "step_transfer", "step_waiting", "step_imbalance",
                                       "exchange_bytes_per_token", "memory_plan", "memory_peak",
                                       "error_log_probability", "error_grad_lora"});
    }
}

/// As the files have the weights, or as they are to be held.
TEST(BenchProgram, StepPlansTheFormatsThatItHolds) {
    const std::string often = " --batch 1 --length 7 --repeat 1 --seconds 0 --threads 1 ";
    for (const auto& [model, format] :
         {std::pair<std::string, std::string>{"qwen3_moe --compute.experts int8", "INT8 by rows"},
          {"qwen3_moe --model.weights int4", "INT4"},
          {"quantised/nvfp4_modelopt", "NVFP4"}}) {
        const Result result = alone("bench step --model.path " MOESAIC_TEST_DATA "/" + model + often);
        EXPECT_EQ(result.exit_code, 0) << result.output;
        EXPECT_NE(result.output.find("experts, " + format), std::string::npos) << result.output;
    }
}

const measure::Figure& figure_of(const measure::Results& results, const std::string& case_name,
                                 const std::string& name) {
    const measure::CaseResult* const found = results.find(case_name);
    EXPECT_NE(found, nullptr) << case_name;
    const measure::Figure* const figure = found->find(name);
    EXPECT_NE(figure, nullptr) << case_name << ' ' << name;
    return *figure;
}

/// Quantities that are written twice, in two ways, agree; sizes of work are computed here by hand.
TEST(BenchProgram, FiguresAgreeWithEachOther) {
    const TemporaryFolder folder;
    const std::string output = (folder / "a.json").string();
    const std::string often = " --repeat 6 --seconds 0 --output " + output;
    ASSERT_EQ(moesaic(2, "bench reference --threads 1" + often).exit_code, 0);
    measure::Results results = measure::read_results(output);
    ASSERT_TRUE(results.headline);
    EXPECT_EQ(results.headline->value, figure_of(results, "reference", "step_tokens_per_second").value);
    const measure::Figure& seconds = figure_of(results, "reference", "step_seconds");
    const measure::Figure& speed = figure_of(results, "reference", "step_tokens_per_second");
    const measure::Figure& floor = figure_of(results, "reference", "step_floor");
    // A rank's 128 tokens: 8 experts of 3 x 2048 x 768 in 2 layers; query and output 4096, key and value 512 wide;
    // vocabulary of 16384. Forward and backward, two operations per weight.
    const double weights = 2 * (8.0 * 3 * 2048 * 768 + 2048.0 * (2 * 4096 + 2 * 512)) + 2048.0 * 16384;
    ASSERT_TRUE(seconds.work);
    EXPECT_DOUBLE_EQ(seconds.work->operations, 2 * 2 * 128 * weights);
    const double peak = results.find("reference")->figures[0].unit == "GFLOP/s"
                            ? results.find("reference")->figures[0].value
                            : results.find("reference")->find("isa_peak")->value;
    for (std::size_t i = 0; i < seconds.samples.size(); ++i) {
        EXPECT_NEAR(speed.samples[i] * seconds.samples[i], 2 * 128, 1e-6);
        EXPECT_GE(floor.samples[i] * seconds.samples[i] * 1e7 * peak, 0.999 * seconds.work->operations);
    }

    ASSERT_EQ(alone("bench layer --hidden 64 --intermediate 32 --experts 4 --experts-per-token 2 --tokens 8 --layers 1 "
                    "--threads 1" +
                    often)
                  .exit_code,
              0);
    results = measure::read_results(output);
    const measure::Figure& forward = figure_of(results, "layer", "layer_forward");
    const measure::Figure& backward = figure_of(results, "layer", "layer_backward");
    const measure::Figure& both = figure_of(results, "layer", "layer_forward_backward");
    ASSERT_TRUE(forward.work);
    EXPECT_DOUBLE_EQ(forward.work->operations, 2.0 * 8 * 2 * 3 * 64 * 32);
    EXPECT_DOUBLE_EQ(forward.work->bytes, 2.0 * 4 * 3 * 64 * 32);
    for (std::size_t i = 0; i < both.samples.size(); ++i) {
        EXPECT_NEAR(forward.samples[i] + backward.samples[i], both.samples[i], 1e-9);
    }

    ASSERT_EQ(moesaic(3, "bench collectives --bytes 4096" + often).exit_code, 0);
    results = measure::read_results(output);
    // Bytes that a rank must at least send or receive, of 3 ranks.
    for (const auto& [operation, bytes] : {std::pair{"ping_pong", 4096.0},
                                           {"all_reduce", 4096.0 * 2 * 2 / 3},
                                           {"reduce_scatter", 4096.0 * 2},
                                           {"all_gather", 4096.0 * 2},
                                           {"all_to_all", 4096.0 * 2},
                                           {"broadcast", 4096.0},
                                           {"gather", 4096.0 * 2}}) {
        const std::string name = std::string(operation) + "_4096";
        const measure::Figure& time = figure_of(results, "collectives", name);
        const measure::Figure& bandwidth = figure_of(results, "collectives", name + "_bandwidth");
        for (std::size_t i = 0; i < time.samples.size(); ++i) {
            EXPECT_NEAR(time.samples[i] * bandwidth.samples[i] * 1e3, bytes, 1e-6 * bytes) << operation;
        }
    }
}

/// 64 sequences need 1.4 GiB at once.
TEST(BenchProgram, StepTakesAsManySequencesInAPassAsMemoryHolds) {
    const std::string step = MOESAIC_PROGRAM " bench step --model.path " MOESAIC_TEST_DATA
                                             "/qwen3_moe --batch 64 --length 1024 --repeat 1 --seconds 0 --threads 1 ";
    const Result limited = test::shell("ulimit -d 1200000; " + step);
    EXPECT_EQ(limited.exit_code, 0) << limited.output;
    std::smatch found;
    ASSERT_TRUE(std::regex_search(limited.output, found, std::regex("passes of ([0-9]+) sequences"))) << limited.output;
    EXPECT_LT(std::stoi(found[1]), 64);
    EXPECT_GE(std::stoi(found[1]), 8);
    const Result at_once = test::shell("ulimit -d 1200000; " + step + "--micro-batch 64");
    EXPECT_EQ(at_once.exit_code, 5) << at_once.output;
    EXPECT_TRUE(std::regex_search(at_once.output, std::regex(R"(; try --micro-batch (8|16|32) \()"))) << at_once.output;
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
    expect_error(tiny_layer + "--threads 0 --threads 1 --shape nothing", 2, "shape = nothing");
    expect_error("bench layer --token 12", 2, "did you mean tokens?");
    expect_error("bench layer --activations layer", 2, "set retain or recompute, or take bench step");
    expect_error("bench layer --experts 4", 2, "experts-per-token = 8 exceeds experts = 4");
    expect_error("bench kernels --output /nonexistent/a.json", 2, "no folder /nonexistent");
    expect_error("bench kernels --output /tmp", 2, "it is a folder");
    expect_error("bench kernels --google-benchmark /proc/a.json", 2, "can't write /proc/a.json");
    expect_error("bench layer --shape deepseek-v3 --layers 500", 5, "GiB");
    EXPECT_EQ(alone("bench").exit_code, 2);
    const Result help = alone("bench --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.output.find("bench kernels"), std::string::npos) << help.output;
}

TEST(BenchProgram, CollectivesPrintsTimeAndBandwidthOfEverySize) {
    for (const int ranks : {2, 3}) {
        const Result result = moesaic(ranks, "bench collectives --bytes 8,4096 --repeat 2 --seconds 0");
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
