// The executable as a user runs it: under mpirun, with its files, messages and exit codes.
#include "app/program.hpp"
#include "core/scopes.hpp"
#include "io/files.hpp"
#include "io/json.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "support/temporary_folder.hpp"
#include "support/xml.hpp"

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using moesaic::test::TemporaryFolder;
using test::alone;
using test::error_lines;
using test::moesaic;
using test::Result;
using test::shell;

class ProgramTest : public testing::Test {
protected:
    [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
    /// A copy of the reference model that a test may damage.
    [[nodiscard]] fs::path copy_of_case(const std::string& name) const {
        fs::copy(reference, folder_ / name, fs::copy_options::recursive);
        return folder_ / name;
    }
    void write(const std::string& name, const std::string& text) const { folder_.write(name, text); }
    [[nodiscard]] std::string train_arguments(const std::string& output, const std::string& more) const {
        return "train --model.path " + reference + " --lora.init " + reference + "/adapter_init --data.train " +
               reference +
               "/train.jsonl --data.shuffle false --train.batch_size 4 --train.lr 2e-3 --train.schedule "
               "constant --compute.precision fp32 --output.dir " +
               path(output) + " " + more;
    }
    [[nodiscard]] std::vector<nlohmann::json> metrics(const std::string& output) const {
        std::vector<nlohmann::json> lines;
        io::for_each_json_line(folder_ / output / "metrics.jsonl",
                               [&](const nlohmann::json& line, std::size_t) { lines.push_back(line); });
        return lines;
    }
    /// Exit code, and a message of one line with the given part, on 1 and on 2 ranks.
    void expect_error(const std::string& arguments, int exit_code, const std::string& part) const {
        for (const int ranks : {1, 2}) {
            const Result result = ranks == 1 ? alone(arguments) : moesaic(ranks, arguments);
            EXPECT_EQ(result.exit_code, exit_code) << arguments << "\n" << result.output;
            const auto lines = error_lines(result.output);
            ASSERT_EQ(lines.size(), 1U) << arguments << "\n" << result.output;
            EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
        }
    }

    const std::string reference = MOESAIC_TEST_DATA "/qwen3_moe";
    TemporaryFolder folder_;
};

struct VerifyCase {
    std::string name;
    int data;
    int expert;
    int tensor;
};

std::ostream& operator<<(std::ostream& out, const VerifyCase& c) {
    return out << c.name << " on " << c.data << " x " << c.expert << " x " << c.tensor;
}

class VerifyTest : public testing::TestWithParam<VerifyCase> {};

TEST_P(VerifyTest, ReferenceCasePasses) {
    const VerifyCase& c = GetParam();
    const Result result =
        moesaic(c.data * c.expert * c.tensor,
                fmt::format("verify {}/{} --parallel.data {} --parallel.expert {} --parallel.tensor {}",
                            MOESAIC_TEST_DATA, c.name, c.data, c.expert, c.tensor));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("all quantities PASS"), std::string::npos) << result.output;
    EXPECT_EQ(result.output.find("FAIL"), std::string::npos) << result.output;
}
INSTANTIATE_TEST_SUITE_P(Ranks, VerifyTest,
                         testing::Values(VerifyCase{"qwen3_moe", 1, 1, 1}, VerifyCase{"qwen3_moe", 1, 2, 1},
                                         VerifyCase{"qwen3_moe", 1, 1, 2}, VerifyCase{"qwen3_moe", 1, 1, 4},
                                         VerifyCase{"qwen3_moe", 2, 2, 1}));
INSTANTIATE_TEST_SUITE_P(AttentionLora, VerifyTest,
                         testing::Values(VerifyCase{"qwen3_moe_attention", 1, 1, 1},
                                         VerifyCase{"qwen3_moe_attention", 1, 1, 2},
                                         VerifyCase{"qwen3_moe_attention", 1, 2, 2},
                                         VerifyCase{"qwen3_moe_attention", 2, 1, 2}));
INSTANTIATE_TEST_SUITE_P(LatentAttention, VerifyTest,
                         testing::Values(VerifyCase{"deepseek_v3", 1, 1, 1}, VerifyCase{"deepseek_v3", 1, 1, 2},
                                         VerifyCase{"deepseek_v3", 2, 1, 2}, VerifyCase{"deepseek_v3", 1, 4, 1}));
INSTANTIATE_TEST_SUITE_P(Mixtral, VerifyTest,
                         testing::Values(VerifyCase{"mixtral", 1, 1, 1}, VerifyCase{"mixtral", 1, 1, 2},
                                         VerifyCase{"mixtral", 1, 3, 1}));

INSTANTIATE_TEST_SUITE_P(Families, VerifyTest,
                         testing::Values(VerifyCase{"deepseek_v2_greedy", 1, 1, 1},
                                         VerifyCase{"deepseek_v2_groups", 1, 1, 1},
                                         VerifyCase{"deepseek_v2_groups", 1, 1, 2}, VerifyCase{"glm4_moe", 1, 1, 2},
                                         VerifyCase{"kimi_k2", 1, 1, 1}, VerifyCase{"kimi_k2", 1, 2, 2},
                                         VerifyCase{"mixtral_window", 1, 1, 1}, VerifyCase{"mixtral_window", 2, 1, 2},
                                         VerifyCase{"olmoe", 1, 1, 1}, VerifyCase{"olmoe", 1, 1, 4},
                                         VerifyCase{"qwen2_moe", 1, 1, 1}, VerifyCase{"qwen2_moe", 2, 1, 2}));

/// Losses and gradients are those of PyTorch with the weights that the codes stand for; slices of ranks cut groups.
TEST_F(ProgramTest, QuantisedReferenceCasesPass) {
    for (const auto& [ranks, options] : {std::pair(1, ""), std::pair(2, " --parallel.tensor 2"),
                                         std::pair(4, " --parallel.expert 2 --parallel.tensor 2")}) {
        std::string arguments = "verify";
        for (const auto& entry : fs::directory_iterator(MOESAIC_TEST_DATA "/quantised")) {
            arguments += " " + entry.path().string();
        }
        const Result result = moesaic(ranks, arguments + options + (ranks == 4 ? " --compute.precision fp32" : ""));
        EXPECT_EQ(result.exit_code, 0) << result.output;
        EXPECT_EQ(result.output.find("FAIL"), std::string::npos) << result.output;
    }
}

/// The auxiliary loss is that of all ranks together; with a huge coefficient it rules the gradient.
TEST_F(ProgramTest, TrainAddsTheAuxiliaryLossOfRouters) {
    std::vector<std::vector<nlohmann::json>> runs;
    for (const auto& [ranks, coefficient] : {std::pair(1, 1000), std::pair(2, 1000), std::pair(1, 0)}) {
        const std::string out = "aux" + std::to_string(runs.size());
        const Result result = moesaic(
            ranks, train_arguments(out, "--train.steps 3 --train.router_aux_coef " + std::to_string(coefficient)));
        ASSERT_EQ(result.exit_code, 0) << result.output;
        runs.push_back(metrics(out));
        ASSERT_EQ(runs.back().size(), 3U);
    }
    for (std::size_t step = 0; step < 3; ++step) {
        const nlohmann::json& one = runs[0][step];
        const nlohmann::json& two = runs[1][step];
        const double aux = one["aux_loss"].get<double>();
        EXPECT_GT(aux, 2.0);  // K, were all experts equal
        EXPECT_NEAR(two["aux_loss"].get<double>(), aux, 1e-4 * aux);
        EXPECT_NEAR(two["grad_norm"].get<double>(), one["grad_norm"].get<double>(),
                    1e-3 * one["grad_norm"].get<double>());
        EXPECT_EQ(one["expert_load_ratio"], two["expert_load_ratio"]);
        EXPECT_FALSE(runs[2][step].contains("aux_loss"));
    }
    EXPECT_GT(runs[0][0]["grad_norm"].get<double>(), 2 * runs[2][0]["grad_norm"].get<double>());
    EXPECT_LT(runs[0][2]["aux_loss"].get<double>(), runs[0][0]["aux_loss"].get<double>() * 1.05);
}

/// A checkpoint with tensors that a layer has no place for, and configurations that change the mathematics.
TEST_F(ProgramTest, RefusesUnsupportedModelsByName) {
    const std::vector<std::pair<std::string, nlohmann::json>> changes = {
        {"quantization_config", {{"quant_method", "bitsandbytes"}}},
        {"rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}},
        {"hidden_act", "gelu"},
        {"scoring_func", "softmax"},
        {"topk_method", "greedy"}};
    const fs::path copy = folder_ / "deepseek";
    fs::copy(MOESAIC_TEST_DATA "/deepseek_v3", copy, fs::copy_options::recursive);
    const nlohmann::json config = io::read_json(copy / "config.json");
    for (const auto& [key, value] : changes) {
        nlohmann::json changed = config;
        changed[key] = value;
        std::ofstream(copy / "config.json") << changed.dump();
        expect_error("verify " + copy.string(), 2, key);
    }
}

TEST_F(ProgramTest, VerifyFailsOnAnotherReference) {
    const fs::path copy = copy_of_case("case");
    nlohmann::json expected = io::read_json(copy / "expected.json");
    expected["train_loss"][7] = expected["train_loss"][7].get<double>() * 1.001;
    std::ofstream(copy / "expected.json") << expected.dump();
    const Result result = moesaic(1, "verify " + copy.string() + " --compute.precision fp32");
    EXPECT_EQ(result.exit_code, 3) << result.output;
    EXPECT_NE(result.output.find("FAIL"), std::string::npos);
}

TEST_F(ProgramTest, VerifyRefusesACaseWithAnUnknownSchedule) {
    const fs::path copy = copy_of_case("case");
    nlohmann::json expected = io::read_json(copy / "expected.json");
    expected["optimizer"]["schedule"] = "cosin";
    std::ofstream(copy / "expected.json") << expected.dump();
    expect_error("verify " + copy.string(), 2,
                 "schedule = cosin must be one of constant, linear, cosine (" + (copy / "expected.json").string() +
                     "); did you mean cosine?");
}

/// The counter of bandwidth, over time, is what ranks sent: some of the bytes of their MPI calls.
void expect_bandwidth_of_messages(const nlohmann::json& events, int ranks) {
    std::map<int, double> first;  // microseconds, of any event
    std::map<int, double> sampled;
    std::map<int, double> by_counter;
    std::map<int, double> by_calls;
    for (const auto& event : events) {
        const int rank = event["pid"];
        if (event.value("cat", "") == "mpi" && event["ph"] == "X") {
            by_calls[rank] += event.contains("args") ? event["args"].value("bytes", 0.0) : 0;
        }
        if (event.contains("ts")) {
            first.try_emplace(rank, event["ts"].get<double>());
            first[rank] = std::min(first[rank], event["ts"].get<double>());
        }
    }
    for (const auto& event : events) {
        if (event["name"] == "MPI bandwidth") {
            const int rank = event["pid"];
            const double at = event["ts"];
            const double since = sampled.contains(rank) ? sampled[rank] : first[rank];
            by_counter[rank] += 1e-6 * (at - since) * event["args"]["bytes/s"].get<double>();
            sampled[rank] = at;
        }
    }
    for (int rank = 0; rank < ranks; ++rank) {
        EXPECT_LT(by_counter[rank], 1.2 * by_calls[rank] + 1);
        EXPECT_GT(by_counter[rank], ranks > 1 ? 0.05 * by_calls[rank] : -1);
    }
}

/// The stack of every thread, as viewers build it: each interval ends within the one that is open when it begins.
/// speedscope adds up doubles, Perfetto whole nanoseconds.
template <class ToTime>
void expect_nested(const nlohmann::json& events, const ToTime& to_time) {
    using Time = decltype(to_time(0.0));
    struct Interval {
        Time begin;
        Time end;
        std::string name;
    };
    std::map<std::pair<int, int>, std::vector<Interval>> threads;
    for (const auto& event : events) {
        if (event["ph"] == "X") {
            const Time begin = to_time(event["ts"].get<double>());
            threads[{event["pid"].get<int>(), event["tid"].get<int>()}].push_back(
                {begin, begin + to_time(event["dur"].get<double>()), event["name"].get<std::string>()});
        }
    }
    for (auto& [thread, intervals] : threads) {
        std::stable_sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) {
            return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
        });
        std::vector<Interval> open;
        for (const Interval& next : intervals) {
            while (!open.empty() && open.back().end <= next.begin) {
                open.pop_back();
            }
            EXPECT_TRUE(open.empty() || next.end <= open.back().end)
                << next.name << " ends after " << open.back().name << ", around " << next.end;
            open.push_back(next);
        }
    }
}

/// What every rank records in a training run that is evaluated and saved.
constexpr std::array scopes_of_training = {core::scopes::step,
                                           core::scopes::decoder_forward,
                                           core::scopes::decoder_backward,
                                           core::scopes::gradients_reduce,
                                           core::scopes::coordinator_decide,
                                           core::scopes::optimizer_step,
                                           core::scopes::evaluate,
                                           core::scopes::attention_forward,
                                           core::scopes::attention_backward,
                                           core::scopes::router_forward,
                                           core::scopes::router_backward,
                                           core::scopes::exchange_dispatch,
                                           core::scopes::exchange_dispatch_gradient,
                                           core::scopes::exchange_combine,
                                           core::scopes::exchange_combine_weights,
                                           core::scopes::loss,
                                           core::scopes::experts_forward,
                                           core::scopes::experts_backward,
                                           core::scopes::experts_gate_up,
                                           core::scopes::experts_down,
                                           core::scopes::experts_combine,
                                           core::scopes::experts_backward_down,
                                           core::scopes::experts_backward_gate_up,
                                           core::scopes::experts_lora_gradients,
                                           core::scopes::adapter_save,
                                           core::scopes::lora_collect,
                                           core::scopes::checkpoint_save,
                                           core::scopes::mpi_agree,
                                           core::scopes::mpi_sum,
                                           core::scopes::mpi_min};

TEST_F(ProgramTest, TrainReproducesTheReferenceAndLeavesItsFiles) {
    const nlohmann::json expected = io::read_json(reference + "/expected.json");
    for (const int ranks : {1, 2}) {
        const std::string out = "out" + std::to_string(ranks);
        const Result result =
            moesaic(ranks, train_arguments(out, "--train.steps 20 --data.eval " + reference + "/train.jsonl"));
        ASSERT_EQ(result.exit_code, 0) << result.output;
        EXPECT_TRUE(std::regex_search(result.output, std::regex("FOM train_tokens_per_second = [0-9.]+ tokens/s")));
        std::size_t steps = 0;
        std::size_t evaluations = 0;
        for (const auto& line : metrics(out)) {
            if (line.contains("eval_loss")) {
                ++evaluations;
                continue;
            }
            const double loss = expected["train_loss"][steps].get<double>();
            EXPECT_NEAR(line["loss"].get<double>(), loss, 1e-4 * loss);
            EXPECT_EQ(line["step"], ++steps);
            for (const char* key : {"grad_norm", "lr", "tokens", "target_tokens", "seconds", "tokens_per_second",
                                    "skipped", "expert_load_ratio", "unused_experts"}) {
                EXPECT_TRUE(line.contains(key)) << key;
            }
        }
        EXPECT_EQ(steps, 20U);
        EXPECT_EQ(evaluations, 2U);
        const nlohmann::json run = io::read_json(folder_ / out / "run.json");
        EXPECT_EQ(run["ranks"].size(), static_cast<std::size_t>(ranks));
        EXPECT_EQ(run["configuration"]["train.steps"], "20");
        EXPECT_TRUE(run["totals"].contains("tokens_per_second"));
        EXPECT_TRUE(fs::exists(folder_ / out / "adapter/adapter_config.json"));

        const nlohmann::json trace = io::read_json(folder_ / out / "trace.json");
        std::map<int, std::set<std::string>> names;
        for (const auto& event : trace["traceEvents"]) {
            names[event["pid"].get<int>()].insert(event["name"].get<std::string>());
            if (event["ph"] == "X") {
                EXPECT_GE(event["dur"].get<double>(), 0.0);
            }
        }
        expect_bandwidth_of_messages(trace["traceEvents"], ranks);
        expect_nested(trace["traceEvents"], [](double us) { return us; });
        expect_nested(trace["traceEvents"], [](double us) { return std::llround(us * 1000); });
        EXPECT_EQ(names.size(), static_cast<std::size_t>(ranks));
        EXPECT_EQ(trace["otherData"]["sessions"][0]["ranks"].size(), static_cast<std::size_t>(ranks));
        EXPECT_EQ(run["trace"].size(), static_cast<std::size_t>(ranks));
        EXPECT_FALSE(fs::exists(folder_ / out / "trace"));  // of single ranks, while the run lasts

        const std::string html = io::read_file(folder_ / out / "report.html", std::size_t{1} << 24U);
        moesaic::test::XmlReader page(html);
        EXPECT_EQ(page.check(), "");
        std::set<double> shown;
        for (const std::string& number : page.data()) {
            shown.insert(std::stod(number));
        }
        for (const auto& line : metrics(out)) {
            EXPECT_TRUE(shown.contains(line[line.contains("eval_loss") ? "eval_loss" : "loss"].get<double>()));
        }
        for (const auto& [rank, of_rank] : names) {
            for (const core::trace::ScopeName& scope : scopes_of_training) {
                // A rank alone has nothing to combine.
                const bool is_expected = ranks > 1 || scope.name != core::scopes::exchange_combine.name;
                EXPECT_EQ(of_rank.contains(scope.name), is_expected) << scope.name << " on rank " << rank;
            }
        }

        // The adapter on the disk is the one that was trained.
        const Result eval =
            moesaic(1, "eval --model.path " + reference + " --data.eval " + reference +
                           "/train.jsonl --compute.precision fp32 --lora.init " + path(out) + "/adapter");
        ASSERT_EQ(eval.exit_code, 0) << eval.output;
        std::smatch match;
        ASSERT_TRUE(std::regex_search(eval.output, match, std::regex("FOM eval_loss = ([0-9.]+)")));
        const double final_loss = metrics(out).back()["eval_loss"].get<double>();
        EXPECT_NEAR(std::stod(match[1]), final_loss, 1e-5 * final_loss);
    }
}

TEST_F(ProgramTest, KilledRunContinuesTheLossCurveAtAnotherRankCount) {
    const auto losses = [&](const std::string& out) {
        std::vector<double> values;
        for (const auto& line : metrics(out)) {
            if (line.contains("loss")) {
                values.push_back(line["loss"].get<double>());
            }
        }
        return values;
    };
    ASSERT_EQ(moesaic(1, train_arguments("whole", "--train.steps 20")).exit_code, 0);
    // Killed as soon as a step after the checkpoint of step 10 is in the metrics; it could run to step 2000.
    const std::string run =
        std::string(MOESAIC_PROGRAM) + " " + train_arguments("killed", "--train.steps 2000 --train.save_every 5");
    const Result killed =
        shell(run + " & pid=$!; for i in $(seq 1200); do [ \"$(cat " + path("killed") +
              "/metrics.jsonl 2>/dev/null | grep -c loss)\" -ge 11 ] && break; sleep 0.05; done; kill -9 $pid; "
              "wait $pid");
    ASSERT_EQ(killed.exit_code, 137) << killed.output;
    const nlohmann::json trace = io::read_json(folder_ / "killed/trace/rank-0.json");
    EXPECT_GT(trace["traceEvents"].size(), 100U);
    EXPECT_EQ(moesaic(1, "report " + path("killed")).exit_code, 0);
    EXPECT_NE(io::read_file(folder_ / "killed/report.md", 1U << 24U).find("did not come to its end"),
              std::string::npos);
    const Result resumed = moesaic(2, train_arguments("killed", "--train.steps 20"));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_TRUE(std::regex_search(resumed.output, std::regex("resuming from .*step-000000(10|15|20)\\.h5")))
        << resumed.output;
    const auto expected = losses("whole");
    const auto found = losses("killed");
    ASSERT_EQ(found.size(), 20U);
    for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_NEAR(found[i], expected[i], 1e-5 * expected[i]) << "step " << i + 1;
    }
    const nlohmann::json sessions = io::read_json(folder_ / "killed/trace.json")["otherData"]["sessions"];
    ASSERT_EQ(sessions.size(), 2U);
    EXPECT_EQ(sessions[0]["ranks"].size(), 0U);  // killed before the clocks were compared again
    EXPECT_EQ(sessions[1]["ranks"].size(), 2U);
}

TEST_F(ProgramTest, SignalStopsAtACheckpointWithItsExitCode) {
    const std::string run = std::string(MOESAIC_PROGRAM) + " " + train_arguments("out", "--train.steps 100000");
    const Result result = shell(run + " & pid=$!; for i in $(seq 1200); do [ -s " + path("out") +
                                "/metrics.jsonl ] && break; sleep 0.05; done; kill -USR1 $pid; wait $pid");
    EXPECT_EQ(result.exit_code, 75) << result.output;
    EXPECT_NE(result.output.find("stopped on request"), std::string::npos) << result.output;
    EXPECT_TRUE(fs::exists(folder_ / "out/checkpoints/latest"));
}

TEST_F(ProgramTest, BadInputIsOneLineWithTheRightCode) {
    const fs::path damaged = copy_of_case("damaged");
    fs::resize_file(damaged / "model.safetensors", fs::file_size(damaged / "model.safetensors") / 2);
    const std::string data = " --data.train " + reference + "/train.jsonl --output.dir " + path("out");
    expect_error("train --model.path " + damaged.string() + data, 4, "model.safetensors");

    const fs::path other = copy_of_case("other");
    nlohmann::json config = io::read_json(other / "config.json");
    config["model_type"] = "mamba";
    std::ofstream(other / "config.json") << config.dump();
    expect_error("train --model.path " + other.string() + data, 2, "\"mamba\" is not supported");

    for (const char* option : {"lora.rank 4", "lora.alpha 4", "lora.rslora true", "lora.targets experts,attention",
                               "lora.rank_pattern q_proj=2", "lora.alpha_pattern q_proj=2"}) {
        const std::string text = option;
        expect_error(train_arguments("out", "--" + text), 2,
                     text.substr(0, text.find(' ')) + " contradicts the adapter");
    }

    const std::string new_adapters = "train --model.path " + reference + " --data.train " + reference +
                                     "/train.jsonl --train.steps 1 --output.dir " + path("new") + " ";
    expect_error(new_adapters + "--lora.rank_pattern nosuch_proj=64", 2, "nosuch_proj matches no adapted module");
    expect_error(new_adapters + "--lora.targets dense", 2, "lora.targets has dense");
    expect_error(new_adapters + "--lora.rank_pattern '(.*)*(.*)*(.*)*x=4'", 2, "lora.rank_pattern: the pattern");
    EXPECT_FALSE(fs::exists(folder_ / "new"));  // refused before anything is written

    write("bad.jsonl", "{\"input_ids\":[1,2],\"labels\":[1,2]}\n{\"input_ids\":[1,320],\"labels\":[1,2]}\n");
    expect_error(
        "train --model.path " + reference + " --output.dir " + path("out") + " --data.train " + path("bad.jsonl"), 4,
        "bad.jsonl:2: input_ids[1] = 320");

    write("file", "not a folder");
    expect_error("train --model.path " + reference + " --data.train " + reference + "/train.jsonl --output.dir " +
                     path("file") + "/out",
                 2, path("file"));
}

/// Only regular files are read, and at once: whoever opens a FIFO waits for its writer.
TEST_F(ProgramTest, NothingWaitsForAFifo) {
    const auto refuses = [&](const std::string& model, const std::string& more, const std::string& file) {
        const Result result = shell("timeout 60 " + std::string(MOESAIC_PROGRAM) + " eval --model.path " + model +
                                    " --data.eval " + reference + "/train.jsonl " + more);
        EXPECT_TRUE(result.exit_code == 2 || result.exit_code == 4) << result.exit_code << result.output;
        EXPECT_NE(result.output.find(file), std::string::npos) << result.output;
        EXPECT_EQ(error_lines(result.output).size(), 1U) << result.output;
    };
    for (const char* name : {"config.json", "model.safetensors"}) {
        const fs::path model = copy_of_case(std::string("fifo-") + name);
        fs::remove(model / name);
        ASSERT_EQ(shell("mkfifo " + (model / name).string()).exit_code, 0);
        refuses(model.string(), "", name);
        fs::remove(model / name);
        fs::create_directory(model / name);
        refuses(model.string(), "", name);
    }
    const fs::path sharded = copy_of_case("fifo-index");
    fs::remove(sharded / "model.safetensors");
    ASSERT_EQ(shell("mkfifo " + (sharded / "model.safetensors.index.json").string()).exit_code, 0);
    refuses(sharded.string(), "", "index.json");
    const fs::path adapter = copy_of_case("fifo-adapter");
    fs::remove(adapter / "adapter_init/adapter_config.json");
    ASSERT_EQ(shell("mkfifo " + (adapter / "adapter_init/adapter_config.json").string()).exit_code, 0);
    refuses(reference, "--lora.init " + (adapter / "adapter_init").string(), "adapter_config.json");
    ASSERT_EQ(shell("mkfifo " + path("fifo.cfg")).exit_code, 0);
    EXPECT_EQ(shell("timeout 60 " + std::string(MOESAIC_PROGRAM) + " plan " + path("fifo.cfg")).exit_code, 2);
}

TEST_F(ProgramTest, PathsThatAreNoUtf8AreNamed) {
    expect_error("eval --model.path \"$(printf 'caf\\351')\" --data.eval x", 2,
                 "model.path has a value that is no UTF-8");
}

/// A run that starts from an adapter writes what it trains, not what the options' defaults are.
TEST_F(ProgramTest, RunsSayTheSettingsOfTheAdapterThatTheyStartFrom) {
    const std::string train = "train --model.path " + reference + " --data.train " + reference +
                              "/train.jsonl --train.steps 1 --train.batch_size 2 --output.trace false ";
    ASSERT_EQ(alone(train + "--lora.rank 4 --lora.alpha 4 --lora.targets experts,attention --output.dir " + path("a"))
                  .exit_code,
              0);
    const std::string from = train + "--lora.init " + path("a") + "/adapter --output.dir " + path("b");
    const Result contradiction = alone(from + " --lora.rank 8");
    EXPECT_EQ(contradiction.exit_code, 2) << contradiction.output;
    EXPECT_NE(contradiction.output.find("lora.rank contradicts the adapter"), std::string::npos)
        << contradiction.output;
    const Result result = alone(from + " --train.epochs 2");
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("note: train.steps = 1 decides how long the run is, not train.epochs = 2\n"),
              std::string::npos)
        << result.output;
    const nlohmann::json configuration = io::read_json(folder_ / "b/run.json")["configuration"];
    EXPECT_EQ(configuration["lora.rank"], "4");
    EXPECT_EQ(configuration["lora.alpha"], "4");
    EXPECT_EQ(configuration["lora.targets"], "experts,attention");
}

/// Adapters of all kinds, ranks by pattern, dropout: in one pass or in four, on one rank or on four, and after a stop.
TEST_F(ProgramTest, DropoutIsTheSameOnAnyNumberOfRanks) {
    const std::string model = MOESAIC_TEST_DATA "/qwen3_moe_attention";
    const auto train = [&](int ranks, const std::string& out, const std::string& more) {
        const Result result = moesaic(
            ranks, "train --model.path " + model + " --data.train " + model + "/train.jsonl --train.batch_size 4 " +
                       "--train.lr 2e-2 --train.schedule constant --compute.precision fp32 --lora.rslora true "
                       "--lora.targets experts,attention,dense --lora.dropout 0.2 --lora.rank 4 --lora.rank_pattern " +
                       "q_proj=6,experts.3.up_proj=7 --output.dir " + path(out) + " " + more);
        ASSERT_EQ(result.exit_code, 0) << result.output;
    };
    const auto losses = [&](const std::string& out) {
        std::vector<double> values;
        for (const auto& line : metrics(out)) {
            values.push_back(line["loss"].get<double>());
        }
        return values;
    };
    train(1, "one", "--train.steps 6");
    train(4, "four",
          "--train.steps 6 --train.micro_batch 1 --parallel.expert 4 --parallel.tensor 1 --parallel.chunks 2");
    train(2, "resumed", "--train.steps 3");
    train(4, "resumed", "--train.steps 6 --output.adapter_layout fused --parallel.expert 2 --parallel.tensor 2");
    const std::vector<double> expected = losses("one");
    ASSERT_EQ(expected.size(), 6U);
    for (const char* out : {"four", "resumed"}) {
        const std::vector<double> found = losses(out);
        ASSERT_EQ(found.size(), 6U);
        for (std::size_t i = 0; i < 6; ++i) {
            EXPECT_NEAR(found[i], expected[i], 1e-5 * expected[i]) << out << " step " << i;
        }
    }
    EXPECT_LT(expected[5], expected[0]);
    const auto eval = [&](const std::string& adapter) {
        const Result result = moesaic(
            2, "eval --model.path " + model + " --data.eval " + model +
                   "/train.jsonl --parallel.expert 2 --parallel.tensor 1 --compute.precision fp32 --lora.init " +
                   path(adapter) + "/adapter");
        std::smatch loss;
        EXPECT_TRUE(std::regex_search(result.output, loss, std::regex("FOM eval_loss = ([0-9.]+)"))) << result.output;
        return std::stod(loss[1]);
    };
    EXPECT_NEAR(eval("resumed"), eval("one"), 1e-4);
}

TEST_F(ProgramTest, UsageErrorsExplainThemselves) {
    expect_error("trian", 2, "did you mean train?");
    expect_error("train --train.lrr 1", 2, "did you mean train.lr?");
    expect_error("train", 2, "output.dir, model.path, data.train are not set");
    expect_error("train --output.dir " + path("out") + " --data.train x", 2, "model.path is not set");
    write("a.cfg", "[model]\npath = $MODELS/a\n");
    expect_error("train " + path("a.cfg"), 2,
                 "model.path = $MODELS/a has the variable MODELS in it (" + path("a.cfg:2"));
    expect_error("eval --model.path=~/no-such-model --data.eval x", 2,
                 std::string(std::getenv("HOME")) + "/no-such-model");
    expect_error("train --learning_rate 1", 2, "here it is train.lr");
    expect_error("train --train.gradient_accumulation_steps 1", 2, "see train.micro_batch: ");
    expect_error("train --train.logging_steps 1", 2, "metrics.jsonl in output.dir has every step");
    expect_error("train --output.pin_memory 1", 2, "--help lists all options");
    expect_error("train --output.dir " + path("out") + " --data.train x --model.path /nonexistent", 2,
                 "/nonexistent/config.json");
    expect_error(train_arguments("out", "--parallel.tensor 3"), 2, "parallel.tensor = auto x auto x 3");
    expect_error(train_arguments("out", "--parallel.expert 0"), 2, "parallel.expert");
    expect_error(train_arguments("out", "--parallel.expert 3"), 2, "parallel.tensor = auto x 3 x auto");
    expect_error(train_arguments("out", "--parallel.expert 4294967297"), 2, "parallel.expert = 4294967297");
    expect_error(train_arguments("out", "--parallel.data 3037000500 --parallel.tensor 2"), 2,
                 "parallel.data = 3037000");
    expect_error(train_arguments("out", "--parallel.threads 4294967297"), 2, "parallel.threads = 4294967297");
    expect_error("plan --model.path " + reference + " --parallel.data 1048576 --parallel.tensor 16", 2,
                 "too many ranks");
    expect_error("plan --model.path " + reference + " --parallel.expert 1000", 2, "exceeds the number of experts");
    expect_error("train --lora.targets experts,routers", 2, "lora.targets");
    expect_error("train --lora.dropout 1", 2, "lora.dropout");
    expect_error("verify", 2, "no case given");
    expect_error("verify /nonexistent", 2, "/nonexistent/expected.json");
    expect_error("train --train.schedule cosin", 2,
                 "train.schedule = cosin must be one of constant, linear, cosine (on the command line); did you mean "
                 "cosine?");
    expect_error("train --compute.precision fp16", 2, "must be one of bf16, bf16x2, fp32");
    expect_error(train_arguments("out", "--train.activations recompte"), 2, "did you mean recompute?");
    expect_error(train_arguments("out", "--output.adapter_layout fussed"), 2, "did you mean fused?");
    expect_error("verify " + reference + " --compute.precision fp23", 2,
                 "must be one of fp32, bf16, bf16x2, both, all");
    EXPECT_EQ(moesaic(1, "").exit_code, 2);
}

TEST_F(ProgramTest, HelpListsEveryOption) {
    const Result result = moesaic(2, "train --help");
    EXPECT_EQ(result.exit_code, 0);
    for (const char* key :
         {"model.path", "lora.rank", "data.train", "train.lr", "parallel.expert", "compute.isa", "output.dir"}) {
        EXPECT_NE(result.output.find(std::string("--") + key), std::string::npos) << key;
    }
    EXPECT_EQ(result.output.find("--lora.init"), result.output.rfind("--lora.init"));  // printed by one rank
    EXPECT_NE(moesaic(1, "--version").output.find("HDF5: 1."), std::string::npos);
}

TEST_F(ProgramTest, HelpOfACommandIsThatOfItsOption) {
    for (const char* command : {"train", "bench step", "bench", "completion"}) {
        const Result asked = alone(std::string("help ") + command);
        EXPECT_EQ(asked.exit_code, 0) << asked.output;
        EXPECT_EQ(asked.output, alone(std::string(command) + " --help").output) << command;
        EXPECT_NE(asked.output.find(std::string("moesaic ") + command), std::string::npos) << asked.output;
    }
    EXPECT_EQ(alone("help").output, alone("--help").output);
    expect_error("help trian", 2, "unknown command trian");
    expect_error("help trian", 2, "did you mean train?");
    expect_error("help bench stepp", 2, "did you mean bench step?");
}

TEST_F(ProgramTest, HelpFitsTheTerminal) {
    const auto longest_line = [](const std::string& environment, const std::string& command) {
        std::istringstream lines(shell("env " + environment + " " + MOESAIC_PROGRAM + " " + command).output);
        std::size_t longest = 0;
        for (std::string line; std::getline(lines, line);) {
            longest = std::max(longest, line.size());
        }
        return longest;
    };
    for (const char* command : {"--help", "train --help", "bench suite --help", "report --help"}) {
        EXPECT_LE(longest_line("-u COLUMNS", command), 100U) << command;
        EXPECT_LE(longest_line("COLUMNS=70", command), 70U) << command;
    }
    EXPECT_GT(longest_line("-u COLUMNS", "train --help"), 90U);
    EXPECT_GT(longest_line("COLUMNS=1000", "train --help"), 150U);
    EXPECT_EQ(longest_line("COLUMNS=wide", "train --help"), longest_line("-u COLUMNS", "train --help"));
    const Result terminal =
        shell("env -u COLUMNS script -q -c 'stty cols 60; " MOESAIC_PROGRAM " train --help; exit $?' /dev/null");
    EXPECT_EQ(terminal.exit_code, 0) << terminal.output;
    std::istringstream lines(terminal.output);
    for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(line.size(), 60U) << line;
    }
    const std::string help = alone("train --help").output;
    const auto place = [&](const std::string& text) { return help.find(text); };
    EXPECT_LT(place("needed:"), place("--model.path"));
    EXPECT_LT(place("--model.path"), place("--data.train"));
    EXPECT_LT(place("--data.train"), place("--output.dir"));
    EXPECT_LT(place("--output.dir"), place("[model]"));
    std::size_t before = 0;
    for (const char* section : {"[model]", "[data]", "[lora]", "[train]", "[compute]", "[parallel]", "[output]"}) {
        EXPECT_LT(before, place(section)) << section;
        before = place(section);
    }
}

/// What bash would offer after the last of these words.
std::string completed(const std::string& words) {
    const std::string program = MOESAIC_PROGRAM;
    const Result result =
        shell("bash -c 'source <(" + program + " completion bash); complete -p moesaic >/dev/null && COMP_WORDS=(" +
              program + " " + words +
              "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _moesaic \"${COMP_WORDS[0]}\" \"${COMP_WORDS[COMP_CWORD]}\" "
              "\"${COMP_WORDS[COMP_CWORD - 1]}\"; echo \"${COMPREPLY[@]}\"'");
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return result.output;
}

TEST(Completion, KnowsCommandsAndOptions) {
    EXPECT_EQ(completed("tr"), "train\n");
    EXPECT_EQ(completed("b"), "bench\n");
    EXPECT_EQ(completed("bench st"), "step\n");
    EXPECT_EQ(completed("help tr"), "train\n");
    EXPECT_TRUE(completed("train --model.").starts_with("--model.path --model.synthetic "));
    EXPECT_EQ(completed("train --train.steps 3 --data.tr"), "--data.train\n");
    EXPECT_EQ(completed("train --data.train \"\""), "\n");  // files
    EXPECT_EQ(completed("bench step --mic"), "--micro-batch\n");
    EXPECT_EQ(completed("eval --output.d"), "\n");
    const std::string all = completed("\"\"");
    for (const char* command : {"train", "eval", "bench", "doctor"}) {
        EXPECT_NE((" " + all).find(std::string(" ") + command), std::string::npos) << all;
    }
}

TEST_F(ProgramTest, CompletionNeedsAShell) {
    expect_error("completion", 2, "moesaic completion bash");
    expect_error("completion zsh", 2, "bash is the only known one");
}

TEST_F(ProgramTest, DoctorDescribesEveryRank) {
    const Result result = moesaic(2, "doctor");
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("portable     ok"), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("\nRanks: 2\n"), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("all-gather"), std::string::npos);
}

/// The line of rank 0 in doctor's map, without its memory, which changes.
std::string first_line_of_map(const std::string& environment) {
    const Result result = test::shell("env " + environment + " " + MOESAIC_PROGRAM + " doctor");
    EXPECT_EQ(result.exit_code, 0) << result.output;
    std::smatch match;
    const bool found = std::regex_search(result.output, match, std::regex("GiB free of all.*\n(.*bound)"));
    EXPECT_TRUE(found) << result.output;
    return found ? match[1].str() : "";
}

/// OpenMP's library would bind the first thread to one core before main() begins.
TEST(DoctorProgram, VariablesThatBindThreadsTakeNoCoreAway) {
    const std::string usual = first_line_of_map("MOESAIC=1");
    for (const char* variable : {"OMP_PROC_BIND=true", "OMP_PROC_BIND=spread", "OMP_PLACES=cores", "OMP_PLACES={0}",
                                 "GOMP_CPU_AFFINITY=0", "KMP_AFFINITY=compact"}) {
        EXPECT_EQ(first_line_of_map(variable), usual) << variable;
    }
}

TEST(DoctorProgram, SaysWhatBecameOfTheVariables) {
    const Result result = test::shell("OMP_PROC_BIND=close OMP_NUM_THREADS=1000 " + std::string(MOESAIC_PROGRAM) +
                                      " doctor --parallel.threads 1");
    EXPECT_NE(result.output.find("note: OMP_PROC_BIND=close not followed"), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("note: parallel.threads = 1 overrules OMP_NUM_THREADS = 1000"), std::string::npos)
        << result.output;
}

TEST(DoctorProgram, SaysTheSameOfSeveralRanksOnce) {
    const Result result = moesaic(4, "doctor --topology \"numa:1 core:2 pu:1\"");
    const std::string shared = "warning: ranks 0-3: others use its cores too";
    EXPECT_NE(result.output.find(shared), std::string::npos) << result.output;
    EXPECT_EQ(result.output.find("others use its cores too"), result.output.rfind("others use its cores too"));
}

}  // namespace
}  // namespace moesaic::app
