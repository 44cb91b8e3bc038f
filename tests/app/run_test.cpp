// Training runs as people live with them: stopped, resumed, repeated, started twice, with data of all sorts.
#include "app/program.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using moesaic::test::TemporaryFolder;
using test::alone;
using test::error_lines;
using test::moesaic;
using test::Result;
using test::shell;

class RunTest : public testing::Test {
protected:
    [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
    [[nodiscard]] std::string arguments(const std::string& more) const {
        return "train --model.path " + reference + " --data.train " + reference +
               "/train.jsonl --data.shuffle false --train.batch_size 4 --train.lr 2e-3 --train.schedule constant "
               "--compute.precision fp32 --parallel.threads 1 --output.dir " +
               path("out") + " " + more;
    }
    [[nodiscard]] std::vector<nlohmann::json> lines_of(const std::string& name) const {
        std::vector<nlohmann::json> lines;
        io::for_each_json_line(folder_ / name, [&](const nlohmann::json& line, std::size_t) { lines.push_back(line); });
        return lines;
    }
    [[nodiscard]] nlohmann::json run() const { return io::read_json(folder_ / "out/run.json"); }
    /// Content of every file of the output folder.
    [[nodiscard]] std::map<std::string, std::string> content() const {
        std::map<std::string, std::string> files;
        for (const auto& entry : fs::recursive_directory_iterator(folder_ / "out")) {
            files[entry.path().string()] =
                entry.is_regular_file() ? io::read_file(entry.path(), std::size_t{1} << 28U) : "";
        }
        return files;
    }
    /// Runs `command` in the background and, once the shell's `condition` holds, does `action` to its process $pid,
    /// which is killed if it does not end.
    [[nodiscard]] static Result when(const std::string& command, const std::string& condition,
                                     const std::string& action) {
        return shell(command + " & pid=$!; { sleep 100; kill -9 $pid; } >/dev/null 2>&1 & guard=$!; " +
                     "for i in $(seq 1200); do " + condition + " && break; sleep 0.05; done; " + action +
                     "; code=0; wait $pid || code=$?; kill $guard; exit $code");
    }
    [[nodiscard]] std::string has_steps() const { return "grep -qs '\"loss\"' " + path("out/metrics.jsonl"); }
    [[nodiscard]] double eval_loss(const std::string& data) const {
        const Result result = alone("eval --model.path " + reference + " --compute.precision fp32 --data.eval " + data);
        std::smatch loss;
        EXPECT_TRUE(std::regex_search(result.output, loss, std::regex("FOM eval_loss = ([0-9.]+)"))) << result.output;
        return loss.empty() ? 0 : std::stod(loss[1]);
    }
    void expect_error(const std::string& command, int exit_code, const std::string& part) const {
        const Result result = alone(command);
        EXPECT_EQ(result.exit_code, exit_code) << command << "\n" << result.output;
        const auto lines = error_lines(result.output);
        ASSERT_EQ(lines.size(), 1U) << command << "\n" << result.output;
        EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
    }

    const std::string reference = MOESAIC_TEST_DATA "/qwen3_moe";
    const std::string program = MOESAIC_PROGRAM;
    TemporaryFolder folder_;
};

TEST_F(RunTest, RefusedAndCompleteRunsLeaveEveryByteOfTheFolder) {
    const std::string eval = " --data.eval " + reference + "/train.jsonl";
    ASSERT_EQ(alone(arguments("--train.steps 3" + eval)).exit_code, 0);
    const auto before = content();
    const Result again = alone(arguments("--train.steps 3" + eval));
    EXPECT_EQ(again.exit_code, 0) << again.output;
    EXPECT_NE(again.output.find("that run is complete"), std::string::npos) << again.output;
    EXPECT_EQ(again.output.find("FOM"), std::string::npos) << again.output;
    EXPECT_EQ(content(), before);
    expect_error(arguments("--train.steps 9 --data.eval /nonexistent.jsonl"), 2, "/nonexistent.jsonl");
    expect_error(arguments("--train.steps 9 --lora.rank 4"), 2, "lora adapters was");
    expect_error(arguments("--train.steps 9 --train.seed 4 --data.shuffle true"), 2,
                 "data.shuffle was false and is true");
    expect_error(arguments("--train.steps 9 --train.warmup_steps 9"), 2, "train.warmup_steps = 9");
    expect_error(arguments("--train.steps 9 --output.resume /nonexistent.h5"), 2, "/nonexistent.h5");
    EXPECT_EQ(content(), before);
    // A folder that a refused run would have created is not there.
    expect_error("train --model.path " + reference + " --data.train /nonexistent --output.dir " + path("new"), 2,
                 "/nonexistent");
    EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(RunTest, AnotherModelOfTheSameSizesIsNotResumedWith) {
    ASSERT_EQ(alone(arguments("--train.steps 2")).exit_code, 0);
    fs::copy(reference, folder_ / "other", fs::copy_options::recursive);
    {
        std::fstream weights(folder_ / "other/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        weights.seekg(0, std::ios::end);
        const auto size = static_cast<std::streamoff>(weights.tellg());
        const std::vector<char> zeros(static_cast<std::size_t>(size / 2));
        weights.seekp(size / 2);
        weights.write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
    }
    std::string other = arguments("--train.steps 4");
    other.replace(other.find(reference), reference.size(), path("other"));
    expect_error(
        other, 2,
        "(model.weights has other content); restore that, or begin a new run in another output.dir: lora.init");
}

TEST_F(RunTest, SessionsOfAResumedRunAddUp) {
    const std::string endless = program + " " + arguments("--train.steps 100000");
    const Result stopped = when(endless, has_steps(), "kill -TERM $pid");
    ASSERT_EQ(stopped.exit_code, 75) << stopped.output;
    EXPECT_TRUE(fs::exists(folder_ / "out/adapter/adapter_config.json"));  // written at every stop
    const auto steps = static_cast<int>(lines_of("out/metrics.jsonl").size());
    const Result resumed = moesaic(2, arguments(fmt::format("--train.steps {} --train.lr 1e-4", steps + 3)));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_NE(resumed.output.find("train.lr: 0.002 -> 0.0001"), std::string::npos) << resumed.output;

    const nlohmann::json run = this->run();
    ASSERT_EQ(run["sessions"].size(), 2U);
    EXPECT_EQ(run["sessions"][0]["end"], "stopped");
    EXPECT_EQ(run["sessions"][1]["end"], "complete");
    EXPECT_EQ(run["sessions"][1]["first_step"], steps);
    EXPECT_EQ(run["sessions"][1]["ranks"], 2);
    EXPECT_EQ(run["sessions"][1]["changed"]["train.lr"], nlohmann::json({"0.002", "0.0001"}));
    EXPECT_NE(run["sessions"][0]["command_line"].get<std::string>().find("moesaic train --model.path"),
              std::string::npos);
    std::int64_t tokens = 0;
    double seconds = 0;
    for (const auto& line : lines_of("out/metrics.jsonl")) {
        tokens += line["tokens"].get<std::int64_t>();
        seconds += line["seconds"].get<double>();
    }
    EXPECT_EQ(run["totals"]["tokens"], tokens);
    EXPECT_NEAR(run["totals"]["seconds"].get<double>(), seconds, 1e-9 * seconds);
    EXPECT_EQ(run["sessions"][0]["tokens"].get<std::int64_t>() + run["sessions"][1]["tokens"].get<std::int64_t>(),
              tokens);
    EXPECT_EQ(run["totals"]["steps"], steps + 3);
    EXPECT_EQ(run["data"]["train"]["sequences"], 16);
    const nlohmann::json trace = io::read_json(folder_ / "out/trace.json");
    const nlohmann::json& traced = trace["otherData"]["sessions"];
    ASSERT_EQ(traced.size(), 2U);
    EXPECT_EQ(traced[0]["ranks"].size(), 1U);
    EXPECT_EQ(traced[1]["ranks"].size(), 2U);
    std::map<int, int> steps_of_rank;
    for (const auto& event : trace["traceEvents"]) {
        if (event["name"] == "step") {
            ++steps_of_rank[event["pid"].get<int>()];
            const bool is_second = event["ts"] >= traced[1]["begin_us"];
            EXPECT_EQ(is_second, steps_of_rank[event["pid"].get<int>()] > (event["pid"] == 0 ? steps : 0));
        }
    }
    EXPECT_EQ(steps_of_rank, (std::map<int, int>{{0, steps + 3}, {1, 3}}));
    // The folder's own configuration repeats the run.
    const Result repeated = alone("train " + path("out/run.cfg") + " --output.dir " + path("repeated"));
    EXPECT_EQ(repeated.exit_code, 0) << repeated.output;
    EXPECT_EQ(io::read_json(folder_ / "repeated/run.json")["configuration"]["train.lr"], "0.0001");
    EXPECT_TRUE(fs::path(run["model"]["path"].get<std::string>()).is_absolute());
}

/// Each rank rounds its own half of an expert: the scales are those of 32 elements, whatever rank they are on.
TEST_F(RunTest, ExpertsInFewerBitsTrainOnAnyNumberOfRanks) {
    const auto losses_of = [&](const std::string& format, int ranks) {
        const Result result = moesaic(ranks, arguments("--train.steps 6 --model.weights " + format));
        EXPECT_EQ(result.exit_code, 0) << result.output;
        std::vector<double> losses;
        for (const auto& line : lines_of("out/metrics.jsonl")) {
            losses.push_back(line["loss"]);
        }
        EXPECT_EQ(run()["configuration"]["model.weights"], format);
        fs::remove_all(folder_ / "out");
        return losses;
    };
    const std::vector<double> exact = losses_of("bf16", 1);
    for (const auto& [format, tolerance] :
         std::map<std::string, double>{{"fp8", 0.01}, {"int8", 0.01}, {"int4", 0.05}, {"mxfp4", 0.05}}) {
        const std::vector<double> alone = losses_of(format, 1);
        const std::vector<double> together = losses_of(format, 2);
        ASSERT_EQ(alone.size(), exact.size());
        ASSERT_EQ(together.size(), exact.size());
        EXPECT_NE(alone.front(), exact.front()) << format;
        for (std::size_t i = 0; i < exact.size(); ++i) {
            EXPECT_NEAR(alone[i], exact[i], tolerance * exact[i]) << format << ", step " << i + 1;
            EXPECT_NEAR(together[i], alone[i], 1e-5 * alone[i]) << format << ", step " << i + 1;
        }
        EXPECT_LT(alone[4], alone[0]) << format;  // the same sequences
    }
}

/// What rounding tokens to 8 bits adds is as small as what rounding weights does.
TEST_F(RunTest, ExpertsMultiplyIntegersOnAnyNumberOfRanks) {
    const auto in_bf16 = [&](const std::string& options) {
        return std::regex_replace(arguments("--train.steps 6 " + options), std::regex("fp32"), "bf16");
    };
    const auto losses_of = [&](const std::string& options, int ranks) {
        const Result result = moesaic(ranks, in_bf16(options));
        EXPECT_EQ(result.exit_code, 0) << result.output;
        std::vector<double> losses;
        for (const auto& line : lines_of("out/metrics.jsonl")) {
            losses.push_back(line["loss"]);
        }
        fs::remove_all(folder_ / "out");
        return losses;
    };
    const std::vector<double> exact = losses_of("", 1);
    const std::vector<double> rounded = losses_of("--model.weights int8", 1);
    for (const int ranks : {1, 2}) {
        const std::vector<double> losses = losses_of("--compute.experts int8", ranks);
        ASSERT_EQ(losses.size(), exact.size());
        EXPECT_NE(losses.front(), rounded.front());
        for (std::size_t i = 0; i < exact.size(); ++i) {
            EXPECT_NEAR(losses[i], exact[i], 0.01 * exact[i]) << ranks << " ranks, step " << i + 1;
        }
        EXPECT_LT(losses[4], losses[0]);  // the same sequences
    }
    expect_error(in_bf16("--compute.experts int8 --model.weights int4"), 2,
                 "compute.experts = int8 with model.weights = int4 (it multiplies weights in INT8)");
    expect_error(arguments("--compute.experts int8"), 2, "compute.experts = int8 with compute.precision = fp32");
    // Each of two ranks has a scale for its half of a row: nobody else can use these.
    const std::string cached = "--compute.experts int8 --model.cache " + path("experts.cache");
    EXPECT_NE(moesaic(2, in_bf16(cached + " --parallel.tensor 2")).output.find("make it with parallel.tensor = 1"),
              std::string::npos);
    const double made = losses_of(cached, 1).front();
    EXPECT_EQ(losses_of(cached, 1).front(), made);
    EXPECT_NEAR(losses_of(cached, 2).front(), made, 1e-3 * made);
}

/// The same bits, whether experts come from a cache or not, and an error of the rank that reads is that of all.
TEST_F(RunTest, RanksOfAHostShareReplicatedWeights) {
    const auto adapter_of = [&](int ranks, const std::string& more) {
        fs::remove_all(folder_ / "out");
        const Result result =
            moesaic(ranks, arguments("--train.steps 3 " + more + (ranks == 4 ? " --parallel.expert 2" : "")));
        EXPECT_EQ(result.exit_code, 0) << result.output;
        return io::read_file(folder_ / "out/adapter/adapter_model.safetensors", std::size_t{1} << 28U);
    };
    for (const int ranks : {1, 2, 4}) {
        const std::string own = adapter_of(ranks, "--model.share none");
        EXPECT_EQ(adapter_of(ranks, "--model.share host"), own) << ranks << " ranks";
        EXPECT_EQ(run()["configuration"]["model.share"], "host");
        EXPECT_EQ(adapter_of(ranks, "--model.share host --model.cache " + path("experts.cache")), own);
    }

    fs::copy(reference, folder_ / "damaged", fs::copy_options::recursive);
    const std::string file = path("damaged/model.safetensors");
    const io::TensorInfo embedding = io::TensorSource::open_file(file).info("model.embed_tokens.weight");
    {
        std::fstream weights(file, std::ios::in | std::ios::out | std::ios::binary);
        weights.seekp(static_cast<std::streamoff>(embedding.offset + embedding.bytes - 4));
        weights.write("\xff\xff\xff\xff", 4);  // NaN, in rows of the last rank
    }
    for (const int ranks : {2, 4}) {
        fs::remove_all(folder_ / "out");
        const Result result = moesaic(ranks, arguments("--model.share host --model.path " + path("damaged")));
        EXPECT_EQ(result.exit_code, 4) << result.output;
        const auto lines = error_lines(result.output);
        ASSERT_EQ(lines.size(), 1U) << result.output;
        EXPECT_NE(lines[0].find("rank " + std::to_string(ranks - 1) + ": "), std::string::npos) << lines[0];
        EXPECT_NE(lines[0].find("model.embed_tokens.weight has a value that is no finite number"), std::string::npos)
            << lines[0];
    }
}

/// A folder that is too small for the window ends all ranks before anything is loaded.
TEST_F(RunTest, SharedMemoryThatIsTooSmallIsNamed) {
    const std::string small = "mount -t tmpfs -o size=12M tmpfs /dev/shm";
    if (shell("unshare --mount sh -c '" + small + "'").exit_code != 0) {
        GTEST_SKIP() << "no right to mount another /dev/shm";
    }
    const std::string train =
        std::string(MOESAIC_MPIRUN) + " -q -n 2 --oversubscribe --bind-to none " + program +
        " eval --model.synthetic qwen3-30b-a3b --model.layers 1 --parallel.threads 1 --data.eval " + reference +
        "/train.jsonl --model.share host";
    const Result result = shell("unshare --mount sh -c '" + small + " && " + train + "'");
    EXPECT_EQ(result.exit_code, 5) << result.output;
    const auto lines = error_lines(result.output);
    ASSERT_EQ(lines.size(), 1U) << result.output;
    EXPECT_NE(lines[0].find("can't share 1."), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("make /dev/shm larger"), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("or set model.share = none"), std::string::npos) << lines[0];
}

TEST_F(RunTest, PackedExpertsOfTheFirstStartServeLaterOnes) {
    const std::string cache = (folder_ / "experts.cache").string();
    const auto train = [&](int ranks, const std::string& weights) {
        fs::remove_all(folder_ / "out");
        return moesaic(ranks, arguments("--train.steps 3 --model.cache " + cache + " --model.weights " + weights +
                                        (ranks == 4 ? " --parallel.expert 2" : "")));
    };
    const auto last_loss = [&] { return lines_of("out/metrics.jsonl").back()["loss"].get<double>(); };
    const Result first = train(2, "int4");
    ASSERT_EQ(first.exit_code, 0) << first.output;
    EXPECT_NE(first.output.find("packed experts written to " + cache), std::string::npos) << first.output;
    const double expected = last_loss();
    for (const int ranks : {1, 2, 4}) {
        const Result later = train(ranks, "int4");
        ASSERT_EQ(later.exit_code, 0) << later.output;
        EXPECT_EQ(later.output.find("packed experts written"), std::string::npos) << later.output;
        EXPECT_NEAR(last_loss(), expected, 1e-5 * expected);
    }
    const Result other = train(1, "int8");
    EXPECT_EQ(other.exit_code, 2) << other.output;
    EXPECT_NE(other.output.find("weights is INT4 (this run asks for INT8)"), std::string::npos) << other.output;
}

TEST_F(RunTest, RunsThatMakeTheSamePackedExpertsAtOnceDoNotDisturbEachOther) {
    const fs::path cache = folder_ / "caches" / "experts.cache";
    fs::create_directory(cache.parent_path());
    const auto evaluate = [&](int ranks) {
        return fmt::format(
            "{} -n {} --oversubscribe {} eval --model.path {} --data.eval {}/train.jsonl --model.weights "
            "int8 --model.cache {}",
            MOESAIC_MPIRUN, ranks, program, reference, reference, cache.string());
    };
    std::array<char, 256> host{};
    ASSERT_EQ(gethostname(host.data(), host.size() - 1), 0);
    const auto leave = [&](const std::string& process) {
        const fs::path left = fmt::format("{}.{}.{}.partial", cache.string(), host.data(), process);
        std::ofstream(left) << "a part";
        return left;
    };
    const fs::path of_killed = leave("999999999");  // more than there can be
    const fs::path of_running = leave(std::to_string(getpid()));
    const Result both =
        shell(fmt::format("{} & one=$!; {} & two=$!; code=0; wait $one || code=$?; wait $two || code=$?; exit $code",
                          evaluate(1), evaluate(2)));
    ASSERT_EQ(both.exit_code, 0) << both.output;
    EXPECT_FALSE(fs::exists(of_killed));
    EXPECT_EQ(io::read_file(of_running, 100), "a part");
    EXPECT_EQ(std::distance(fs::directory_iterator(cache.parent_path()), {}), 2);
    const Result later = shell(evaluate(2));
    EXPECT_EQ(later.exit_code, 0) << later.output;
    EXPECT_EQ(later.output.find("packed experts written"), std::string::npos) << later.output;
}

TEST_F(RunTest, OneRunOwnsAFolderUntilItEndsInWhateverWay) {
    const std::string endless = program + " " + arguments("--train.steps 100000 --train.save_every 1");
    const Result second = when(endless + " >/dev/null", has_steps(),
                               program + " " + arguments("--train.steps 9") + "; echo code $?; kill -9 $pid");
    EXPECT_NE(second.output.find("belongs to a run that has not ended (process "), std::string::npos) << second.output;
    EXPECT_NE(second.output.find("code 2"), std::string::npos) << second.output;
    EXPECT_TRUE(fs::exists(folder_ / "out/lock"));  // of the one that was killed
    const Result third = when(endless, "sleep 1 && " + has_steps(), "kill -USR1 $pid");
    EXPECT_EQ(third.exit_code, 75) << third.output;
    EXPECT_NE(third.output.find("resuming from"), std::string::npos) << third.output;
    EXPECT_FALSE(fs::exists(folder_ / "out/lock"));

    // Left behind on another host: recently, long ago, and by an earlier start of the same job.
    const auto leave_lock = [&](const std::string& job) {
        std::ofstream(folder_ / "out/lock")
            << R"({"host": "elsewhere", "job": ")" << job << R"(", "since": "then", "process": 7})";
    };
    leave_lock("SLURM_JOB_ID 3");
    expect_error(arguments("--train.steps 9"), 2, "(process 7 on elsewhere, SLURM_JOB_ID 3, since then)");
    EXPECT_NE(shell("SLURM_JOB_ID=4 " + program + " " + arguments("--lora.rank 4")).output.find("elsewhere"),
              std::string::npos);
    EXPECT_EQ(shell("SLURM_JOB_ID=3 " + program + " " + arguments("--lora.rank 4")).output.find("elsewhere"),
              std::string::npos);
    leave_lock("");
    shell("touch -d '1 hour ago' " + path("out/lock"));
    EXPECT_EQ(alone(arguments("--lora.rank 4")).output.find("elsewhere"), std::string::npos);
}

TEST_F(RunTest, FolderThatVanishesEndsTheRun) {
    const Result result =
        when(program + " " + arguments("--train.steps 100000"), has_steps(), "mv " + path("out") + " " + path("moved"));
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_NE(result.output.find("was removed, renamed or taken over"), std::string::npos) << result.output;
}

/// As a terminal does it: the signal reaches the launcher alone, while ranks load, take a step, or evaluate.
TEST_F(RunTest, LauncherStopsAllRanksAtACheckpoint) {
    // A shell that runs something in the background has it ignore SIGINT, unlike a terminal.
    const std::string launcher =
        fmt::format("MOESAIC={} MPIRUN={} env --default-signal=INT {}", program, MOESAIC_MPIRUN, MOESAIC_LAUNCHER);
    const std::string command =
        launcher + " -n 2 " +
        arguments("--train.steps 100000 --train.eval_every 1 --data.eval " + reference + "/train.jsonl");
    // Between two steps most of the time goes to evaluations.
    for (const std::string signal : {"INT", "TERM", "HUP"}) {
        const Result result = when(command, has_steps(), "kill -" + signal + " $pid");
        EXPECT_EQ(result.exit_code, 75) << signal << "\n" << result.output;
        EXPECT_NE(result.output.find("stopped on request"), std::string::npos) << result.output;
        EXPECT_NE(result.output.find("Ctrl-C stops at a checkpoint"), std::string::npos) << result.output;
        EXPECT_TRUE(error_lines(result.output).empty()) << result.output;
        const auto lines = lines_of("out/metrics.jsonl");
        EXPECT_EQ(run()["sessions"].back()["last_step"], lines.back()["step"]);
        fs::remove(folder_ / "out/metrics.jsonl.partial");
        // The next session waits for a step of its own.
        shell("cp " + path("out/metrics.jsonl") + " " + path("before.jsonl"));
        const Result resumed =
            alone(arguments(fmt::format("--train.steps {} --train.eval_every 1 --data.eval {}/train.jsonl",
                                        lines.back()["step"].get<int>() + 1, reference)));
        EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
        std::map<int, int> evaluations;
        for (const auto& line : lines_of("out/metrics.jsonl")) {
            evaluations[line["step"].get<int>()] += line.contains("eval_loss") ? 1 : 0;
        }
        for (const auto& [step, count] : evaluations) {
            EXPECT_EQ(count, 1) << "step " << step;  // one that was cut short is repeated
        }
        fs::remove_all(folder_ / "out");
    }
    const Result early =
        when(launcher + " -n 2 train --model.synthetic moesaic-reference --data.train " + reference +
                 "/train.jsonl --train.batch_size 2 --data.max_length 32 --output.dir " + path("early"),
             "test -e " + path("early/lock"), "kill -INT $pid");
    EXPECT_EQ(early.exit_code, 75) << early.output;
    EXPECT_NE(early.output.find("stopped on request while the model was loaded"), std::string::npos) << early.output;
    EXPECT_FALSE(fs::exists(folder_ / "early"));

    const Result bad = shell(launcher + " -n 2 train --train.lrr 3");
    EXPECT_EQ(bad.exit_code, 2);
    EXPECT_EQ(std::count(bad.output.begin(), bad.output.end(), '\n'), 1) << bad.output;  // no word of mpirun's
    EXPECT_EQ(shell(launcher).exit_code, 2);
    for (const std::string wrong : {"-n x train", "-n 0 train", "-n", "--mca a", "--bogus"}) {
        const Result refused = shell(launcher + " " + wrong);
        EXPECT_EQ(refused.exit_code, 2) << refused.output;
        EXPECT_TRUE(refused.output.starts_with("moesaic-run: ")) << refused.output;
        EXPECT_EQ(std::count(refused.output.begin(), refused.output.end(), '\n'), 1) << refused.output;
    }
}

TEST_F(RunTest, LostOutputStopsTheRunAtACheckpoint) {
    const Result closed =
        shell("{ " + program + " " + arguments("--train.steps 100000") + "; echo code $? >&2; } | sed '/^step 1/q'");
    EXPECT_NE(closed.output.find("can't write standard output (Broken pipe)"), std::string::npos) << closed.output;
    EXPECT_NE(closed.output.find("code 1"), std::string::npos) << closed.output;
    EXPECT_TRUE(fs::exists(folder_ / "out/checkpoints/latest"));
    fs::remove_all(folder_ / "out");
    const Result full =
        shell("{ " + program + " " + arguments("--train.steps 100000") + " >/dev/full; echo code $?; }");
    EXPECT_NE(full.output.find("can't write standard output (No space left on device)"), std::string::npos)
        << full.output;
    EXPECT_NE(full.output.find("code 5"), std::string::npos) << full.output;
    EXPECT_NE(shell(program + " --help >/dev/full; echo code $?").output.find("code 5"), std::string::npos);
    EXPECT_NE(shell("{ " + program + " train --help; echo code $? >&2; } | true").output.find("code 1"),
              std::string::npos);
}

TEST_F(RunTest, DataThatIsWrongIsRefusedAndPaddingDropped) {
    std::ofstream left(folder_ / "left.jsonl");
    std::ofstream right(folder_ / "right.jsonl");
    std::ofstream bare(folder_ / "bare.jsonl");
    io::for_each_json_line(reference + "/train.jsonl", [&](const nlohmann::json& line, std::size_t) {
        const std::vector<int> pads(7, 0);
        const auto ids = line["input_ids"].get<std::vector<int>>();
        const auto labels = line["labels"].get<std::vector<int>>();
        const auto padded = [&](std::vector<int> values, int pad, bool at_left) {
            values.insert(at_left ? values.begin() : values.end(), pads.size(), pad);
            return values;
        };
        const std::vector<int> ones(ids.size(), 1);
        left << nlohmann::json{{"input_ids", padded(ids, 0, true)},
                               {"labels", padded(labels, -100, true)},
                               {"attention_mask", padded(ones, 0, true)}}
             << "\n";
        right << nlohmann::json{{"input_ids", padded(ids, 0, false)}, {"attention_mask", padded(ones, 0, false)}}
              << "\n";
        bare << nlohmann::json{{"input_ids", ids}} << "\n";
    });
    left.close();
    right.close();
    bare.close();
    EXPECT_EQ(eval_loss(path("left.jsonl")), eval_loss(reference + "/train.jsonl"));
    EXPECT_EQ(eval_loss(path("right.jsonl")), eval_loss(path("bare.jsonl")));

    const std::string evaluate = "eval --model.path " + reference + " --data.eval " + path("bad.jsonl");
    folder_.write("bad.jsonl", R"({"input_ids":[1,2,3],"labels":[-100,-100,-100]})");
    expect_error(evaluate, 4, "bad.jsonl: no token is trained on");
    folder_.write("bad.jsonl", R"({"input_ids":[1,2,3],"target":[1,2,3]})");
    expect_error(evaluate, 2, "bad.jsonl:1: unknown key 'target' (known are input_ids, labels, attention_mask)");
    folder_.write("bad.jsonl", R"({"messages":[{"role":"user","content":"hello"}]})");
    expect_error(evaluate, 2, "bad.jsonl:1: unknown key 'messages'");
}

TEST_F(RunTest, BatchesLargerThanTheDataWrapAround) {
    for (const int ranks : {1, 2}) {
        const Result result =
            moesaic(ranks, "train --model.path " + reference + " --data.train " + reference +
                               "/train.jsonl --data.shuffle false --train.batch_size 64 --train.steps 1 "
                               "--compute.precision fp32 --output.dir " +
                               path("wrap" + std::to_string(ranks)));
        EXPECT_EQ(result.exit_code, 0) << result.output;
    }
}

TEST_F(RunTest, KeepsTheBestAdapterAndEndsWithoutGain) {
    // Such a rate makes the loss worse soon.
    const std::string command = arguments(
        "--train.steps 40 --train.eval_every 1 --train.patience 3 --train.max_grad_norm 0 --train.lr 0.3 --data.eval " +
        reference + "/train.jsonl");
    const Result result = alone(command);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    std::map<int, double> losses;
    int best = 1;
    for (const auto& line : lines_of("out/metrics.jsonl")) {
        if (line.contains("eval_loss") && line["step"] > 0) {
            const int step = line["step"];
            losses[step] = line["eval_loss"];
            best = losses[step] < losses[best] ? step : best;
        }
    }
    ASSERT_EQ(losses.rbegin()->first, best + 3) << result.output;
    EXPECT_LT(losses.rbegin()->first, 40);
    EXPECT_EQ(run()["totals"]["best_step"], best);
    EXPECT_NE(result.output.find(fmt::format("its adapter is that of step {},", best)), std::string::npos)
        << result.output;
    const Result eval = alone("eval --model.path " + reference + " --data.eval " + reference +
                              "/train.jsonl --compute.precision fp32 --lora.init " + path("out/adapter"));
    std::smatch loss;
    ASSERT_TRUE(std::regex_search(eval.output, loss, std::regex("FOM eval_loss = ([0-9.]+)"))) << eval.output;
    EXPECT_NEAR(std::stod(loss[1]), losses[best], 1e-5);
    EXPECT_NE(alone(command).output.find("that run is complete"), std::string::npos);
}

/// A killed session may leave the adapter of a step that its checkpoints do not reach: it is not taken for another's.
TEST_F(RunTest, AdapterIsThatOfTheStepThatIsSaid) {
    const std::string eval = " --train.eval_every 2 --data.eval " + reference + "/train.jsonl";
    const auto said = [](const Result& result) {
        std::smatch step;
        EXPECT_TRUE(std::regex_search(result.output, step, std::regex("its adapter is that of step ([0-9]+)")))
            << result.output;
        return step.empty() ? 0 : std::stoi(step[1]);
    };
    EXPECT_EQ(said(alone(arguments("--train.steps 4" + eval))), 4);
    // Without evaluations the last step is taken, and what came before does not count any more.
    EXPECT_EQ(said(alone(arguments("--train.steps 5 --output.keep_best false"))), 5);
    EXPECT_EQ(said(alone(arguments("--train.steps 6 --train.lr 0"))), 6);
    EXPECT_EQ(said(alone(arguments("--train.steps 8" + eval))), 8);
    // Again with the same best: the session before left it, and a step without an evaluation does not replace it.
    EXPECT_EQ(said(alone(arguments("--train.steps 9"))), 8);
    nlohmann::json run = this->run();
    run.erase("totals");  // as after a kill
    std::ofstream(folder_ / "out/run.json") << run;
    EXPECT_EQ(said(alone(arguments("--train.steps 10"))), 8);
}

/// Killed at any moment, a run does not lose the best adapter that it has written: here the first one that is
/// evaluated, since with such a learning rate no later one is better.
TEST_F(RunTest, KeepsTheBestAdapterOfAKilledSession) {
    const std::string evaluated =
        " --train.lr 0 --train.eval_every 20 --train.save_every 1 --data.eval " + reference + "/train.jsonl";
    const Result killed = when(program + " " + arguments("--train.steps 100000" + evaluated),
                               "grep -qs '\"step\":22,' " + path("out/metrics.jsonl"), "kill -9 $pid");
    ASSERT_EQ(killed.exit_code, 137) << killed.output;
    const int steps = lines_of("out/metrics.jsonl").back()["step"];
    const Result resumed = alone(arguments(fmt::format("--train.steps {}", steps + 2) + evaluated));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_EQ(run()["totals"]["best_step"], 20);
    EXPECT_EQ(run()["totals"]["adapter_step"], 20);
}

/// Every step was skipped: because the batches have no targets, or because the numbers overflow.
TEST_F(RunTest, ARunThatChangesNothingIsNoSuccess) {
    std::string first;
    io::for_each_json_line(reference + "/train.jsonl", [&](const nlohmann::json& line, std::size_t) {
        first = first.empty() ? line.dump() : first;
    });
    folder_.write("masked.jsonl", R"({"input_ids":[1,2,3],"labels":[-100,-100,-100]})"
                                  "\n" +
                                      first + "\n");
    const std::string masked = " --train.batch_size 1 --data.train " + path("masked.jsonl");
    const std::string nothing = "did not change the adapter (loss or gradients were not finite, or no token";
    const auto latest = [&] { return io::read_file(folder_ / "out/checkpoints/latest", 100); };
    for (int session = 0; session < 2; ++session) {  // the second has no step left, and is no success either
        expect_error(arguments("--train.steps 1" + masked), 1, "1 step " + nothing);
        EXPECT_EQ(latest(), "step-00000001.h5\n");
        EXPECT_FALSE(run().contains("finished"));
        EXPECT_FALSE(fs::exists(folder_ / "out/adapter"));
    }
    EXPECT_TRUE(lines_of("out/metrics.jsonl").at(0)["loss"].is_null());
    const Result trained = alone(arguments("--train.steps 2" + masked));
    EXPECT_EQ(trained.exit_code, 0) << trained.output;
    EXPECT_NE(trained.output.find("masked.jsonl: no token is trained on in 1 of 2 sequences"), std::string::npos)
        << trained.output;
    // A session whose only step is skipped belongs to a run that has learned something.
    const Result skipped = alone(arguments("--train.steps 3" + masked));
    EXPECT_EQ(skipped.exit_code, 0) << skipped.output;
    EXPECT_NE(skipped.output.find("step 3/3  loss none"), std::string::npos) << skipped.output;
    EXPECT_NE(skipped.output.find("warning: skipped 2 of 3 steps"), std::string::npos) << skipped.output;
    fs::remove_all(folder_ / "out");
    // Who stops such a run wants to continue it.
    std::string many;
    for (int line = 0; line < 50000; ++line) {
        many += R"({"input_ids":[1,2,3],"labels":[-100,-100,-100]})"
                "\n";
    }
    folder_.write("masked.jsonl", many + first + "\n");
    const Result stopped =
        when(program + " " + arguments("--train.steps 50000" + masked), has_steps(), "kill -TERM $pid");
    EXPECT_EQ(stopped.exit_code, 75) << stopped.output;
    const auto skipped_lines = std::count(stopped.output.begin(), stopped.output.end(), '\n');
    EXPECT_LT(skipped_lines, 40) << stopped.output;  // not one for each step

    fs::copy(reference, folder_ / "huge", fs::copy_options::recursive);
    const io::TensorInfo norm =
        io::TensorSource::open_file(folder_ / "huge/model.safetensors").info("model.norm.weight");
    {
        std::fstream weights(folder_ / "huge/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        weights.seekp(static_cast<std::streamoff>(norm.offset));
        for (std::uint64_t byte = 0; byte < norm.bytes; ++byte) {
            weights.put('\x7f');  // 0x7f7f and 0x7f7f7f7f are close to the largest finite BF16 and FP32
        }
    }
    for (const int ranks : {1, 2}) {
        fs::remove_all(folder_ / "out");
        const Result huge = moesaic(ranks, arguments("--train.steps 2 --model.path " + path("huge")));
        EXPECT_EQ(huge.exit_code, 1) << huge.output;
        EXPECT_NE(huge.output.find("step 2 skipped: loss or gradients are not finite"), std::string::npos)
            << huge.output;
        EXPECT_NE(huge.output.find(": 2 steps " + nothing), std::string::npos) << huge.output;
        EXPECT_EQ(huge.output.find("results are in"), std::string::npos) << huge.output;
        EXPECT_EQ(latest(), "step-00000002.h5\n");
    }
}

TEST_F(RunTest, EvalTakesTheConfigurationOfATrainingRunAndWritesScores) {
    folder_.write("run.cfg", "[model]\npath = " + reference + "\n[lora]\nrank = 4\n[data]\ntrain = x\neval = " +
                                 reference + "/train.jsonl\n[train]\nlr = 1\nbatch_size = 3\n[output]\ndir = y\n");
    for (const int ranks : {1, 2}) {
        const Result result =
            moesaic(ranks, "eval " + path("run.cfg") + " --compute.precision fp32 --output " + path("scores.jsonl"));
        ASSERT_EQ(result.exit_code, 0) << result.output;
        const auto scores = lines_of("scores.jsonl");
        ASSERT_EQ(scores.size(), 16U);
        double sum = 0;
        double targets = 0;
        for (std::size_t s = 0; s < scores.size(); ++s) {
            EXPECT_EQ(scores[s]["sequence"], s);
            EXPECT_FALSE(scores[s]["exact"].get<bool>());
            EXPECT_GE(scores[s]["first_wrong"].get<int>(), 1);
            sum += scores[s]["loss"].get<double>() * scores[s]["target_tokens"].get<double>();
            targets += scores[s]["target_tokens"].get<double>();
        }
        EXPECT_NEAR(sum / targets, eval_loss(reference + "/train.jsonl"), 1e-5);
    }
    expect_error("eval " + path("run.cfg") + " --lora.rank 4", 2, "unknown option lora.rank");
    // What a run held back of its training data.
    ASSERT_EQ(alone(arguments("--train.steps 2 --data.eval_fraction 0.25")).exit_code, 0);
    const Result held_back = alone("eval " + path("out/run.cfg") + " --lora.init " + path("out/adapter"));
    EXPECT_NE(held_back.output.find("adapted: 72 x experts (rank 8)"), std::string::npos) << held_back.output;
    std::smatch loss;
    ASSERT_TRUE(std::regex_search(held_back.output, loss, std::regex("FOM eval_loss = ([0-9.]+)"))) << held_back.output;
    EXPECT_NEAR(std::stod(loss[1]), lines_of("out/metrics.jsonl").back()["eval_loss"].get<double>(), 1e-5);
    expect_error("eval " + path("run.cfg") + " --data.eval ''", 2, "data.eval is not set");
    expect_error("eval --model.path x --data.eval_fraction 0.5", 2, "data.train is not set");
    folder_.write("typo.cfg", "[model]\npaht = x\n");
    expect_error("eval " + path("typo.cfg"), 2, "did you mean model.path?");
    EXPECT_EQ(alone("bench step " + path("run.cfg") + " --model.path x --help").exit_code, 0);
}

}  // namespace
}  // namespace moesaic::app
