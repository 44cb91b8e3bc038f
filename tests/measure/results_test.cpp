// Result files: what is written is read again; damaged ones are refused.
#include "measure/results.hpp"
#include "core/error.hpp"
#include "io/json.hpp"
#include "measure/rules.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

namespace moesaic::measure {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

const std::filesystem::path sample = std::filesystem::path(MOESAIC_TEST_DATA) / "bench/suite_two_ranks.json";

TEST(Results, AreTheSameAfterWritingAndReading) {
    const Results results = read_results(sample);
    EXPECT_EQ(results.ranks.size(), 2U);
    EXPECT_EQ(results.cases.size(), 5U);
    const CaseResult* layer = results.find("layer.qwen3");
    ASSERT_NE(layer, nullptr);
    EXPECT_EQ(layer->machine->level, "amx");
    EXPECT_EQ(layer->find("layer_forward")->better, Better::lower);
    EXPECT_EQ(layer->find("layer_forward")->summary.n, 6);
    EXPECT_EQ(layer->find("layer_forward")->floor_percent, 80.2);
    EXPECT_FALSE(results.find("collectives")->machine.has_value());
    EXPECT_EQ(results.headline->case_name, "step.reference");
    const test::TemporaryFolder folder;
    const auto text = to_json(results).dump();
    EXPECT_EQ(to_json(read_results(folder.write("a.json", text))).dump(), text);
    EXPECT_EQ(json::parse(text), io::read_json(sample));
}

TEST(Results, DamagedFilesAreRefused) {
    const json whole = io::read_json(sample);
    const test::TemporaryFolder folder;
    const auto expect_refused = [&](const char* part, const std::function<void(json&)>& damage) {
        json document = whole;
        damage(document);
        try {
            static_cast<void>(read_results(folder.write("damaged.json", document.dump())));
            ADD_FAILURE() << part << " is not noticed";
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::corrupt_input);
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
            EXPECT_NE(std::string(error.what()).find("damaged.json"), std::string::npos) << error.what();
        }
    };
    expect_refused("schema", [](json& d) { d["schema"] = "moesaic-bench-1"; });
    expect_refused("cases", [](json& d) { d["cases"] = 5; });
    expect_refused("name", [](json& d) { d["cases"][1].erase("name"); });
    expect_refused("samples", [](json& d) { d["cases"][1]["figures"][0]["samples"].push_back(1); });
    expect_refused("samples for some ranks", [](json& d) { d["cases"][1]["figures"][0]["rank_samples"] = {{1}}; });
    expect_refused("rank_samples", [](json& d) { d["cases"][1]["figures"][0]["rank_samples"] = {{"a"}}; });
    expect_refused("repetitions", [](json& d) { d["cases"][1]["rounds"][0] = -4; });
    expect_refused("machine", [](json& d) { d["cases"][1]["machine"]["peak"] = {1}; });
    expect_refused("quantity", [](json& d) { d["cases"][1]["figures"][0].erase("quantity"); });
    expect_refused("rows", [](json& d) { d["cases"][1]["figures"][0]["parameters"]["rows"] = 16; });
    expect_refused("better", [](json& d) { d["cases"][1]["figures"][0]["better"] = "bigger"; });
    expect_refused("interval", [](json& d) { d["headline"]["interval"] = {1}; });
    expect_refused("ranks", [](json& d) { d["ranks"] = {{"a", 1}}; });
}

/// The sample as it would be had its headline come from the reference workload, and its limits from their samples.
json regular_results() {
    json document = io::read_json(sample);
    for (json& result : document["cases"]) {
        for (json& figure : result["figures"]) {
            if (figure["name"] == figures::amx_peak || figure["name"] == figures::dram_read) {
                figure["value"] = best_of(figure["samples"].get<std::vector<double>>());
            }
        }
        if (result["name"] == "step.reference") {
            result["benchmark"] = "reference";
        }
    }
    return document;
}

TEST(Rules, AreKeptOrNamed) {
    const test::TemporaryFolder folder;
    const auto broken = [&](const std::function<void(json&)>& change) {
        json document = regular_results();
        change(document);
        return broken_rules(folder.write("a.json", document.dump()));
    };
    const auto none = broken([](json&) {});
    EXPECT_TRUE(none.empty()) << none.front();
    const auto expect_broken = [&](const char* part, const std::function<void(json&)>& change) {
        const auto rules = broken(change);
        ASSERT_FALSE(rules.empty()) << part;
        EXPECT_NE(rules.front().find(part), std::string::npos) << rules.front();
    };
    expect_broken("complete", [](json& d) { d["complete"] = false; });
    expect_broken("no cases", [](json& d) { d["cases"] = json::array(); });
    expect_broken("kernels.qwen3: several", [](json& d) { d["cases"][0]["name"] = "kernels.qwen3"; });
    expect_broken("kernels.qwen3: nothing was verified", [](json& d) { d["cases"][1]["checks"] = json::array(); });
    expect_broken("has an error of", [](json& d) { d["cases"][1]["checks"][0]["error"] = 1e9; });
    expect_broken("median is not", [](json& d) { d["cases"][1]["figures"][0]["median"] = 1; });
    expect_broken("n is not", [](json& d) { d["cases"][1]["figures"][0]["n"] = 1; });
    expect_broken("interval is not", [](json& d) { d["cases"][1]["figures"][0]["interval"][0] = 1; });
    expect_broken("value 1 is neither", [](json& d) { d["cases"][1]["figures"][0]["value"] = 1; });
    expect_broken("headline: there is none", [](json& d) { d["headline"] = nullptr; });
    expect_broken("is not the fastest", [](json& d) { d["headline"]["value"] = 1e6; });
    expect_broken("no case allows one", [](json& d) { d["cases"][4]["benchmark"] = "step"; });
}

TEST(Rules, ResultsAreKnownByTheirBegin) {
    const test::TemporaryFolder folder;
    EXPECT_TRUE(looks_like_results(sample));
    EXPECT_TRUE(looks_like_results(folder.write("older.json", R"({"schema":"moesaic-bench-3"})")));
    EXPECT_FALSE(looks_like_results(folder.write("run.json", R"({"started":"a"})")));
    EXPECT_FALSE(looks_like_results(folder / "missing.json"));
}

}  // namespace
}  // namespace moesaic::measure
