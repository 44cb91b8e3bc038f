// What ranks and hosts tell about themselves, and results as Google Benchmark writes them.
#include "bench/environment.hpp"

#include "bench/disturbances.hpp"
#include "bench/google_results.hpp"
#include "host/caches.hpp"
#include "measure/results.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>

namespace moesaic::bench {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

const std::filesystem::path sample = std::filesystem::path(MOESAIC_TEST_DATA) / "bench/suite_two_ranks.json";

TEST(Results, GoogleBenchmarkHasEveryRepetitionOfWhatIsMeasured) {
    const ordered_json document = to_google_benchmark(measure::read_results(sample));
    EXPECT_EQ(document["context"]["num_cpus"], 112);
    int forward = 0;
    for (const auto& entry : document["benchmarks"]) {
        EXPECT_GT(entry["real_time"].get<double>(), 0);
        EXPECT_EQ(entry["time_unit"], "ns");
        if (entry["name"] == "layer.qwen3/layer_forward") {
            EXPECT_EQ(entry["repetition_index"], forward++);
            EXPECT_NEAR(entry["real_time"].get<double>(), 9.1e6, 2e5);
        }
    }
    EXPECT_EQ(forward, 6);
}

TEST(Environment, DifferencesNameKeyAndRanks) {
    const std::vector<ordered_json> ranks = {
        {{"rank", 0}, {"cpu", {{"microcode", "a"}, {"mhz", 1}}}, {"variables", {{"OMP_X", "1"}}}},
        {{"rank", 1}, {"cpu", {{"microcode", "a"}, {"mhz", 2}}}, {"variables", ordered_json::object()}},
        {{"rank", 2}, {"cpu", {{"microcode", "b"}, {"mhz", 3}}}, {"variables", {{"OMP_X", "1"}}}}};
    const std::vector<measure::Difference> found = differences(ranks);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].key, "cpu.microcode");
    EXPECT_EQ(found[0].values[0].ranks, "0-1");
    EXPECT_EQ(found[0].values[1].value, "b");
    EXPECT_EQ(found[1].key, "variables.OMP_X");
    EXPECT_EQ(found[1].values[0].ranks, "0,2");
    EXPECT_TRUE(found[1].values[1].value.is_null());
}

TEST(Environment, ReadsTheFilesOfTheSystem) {
    const test::TemporaryFolder folder;
    folder.write("proc/cpuinfo",
                 "processor\t: 0\nmodel name\t: A CPU\nmicrocode\t: 0x2b\ncpu MHz : 800.5\n\n"
                 "processor\t: 3\nmodel name\t: A CPU\ncpu MHz : 2100.5\n");
    folder.write("proc/loadavg", "1.5 1.0 0.5 1/100 4\n");
    folder.write("etc/os-release", "NAME=x\nPRETTY_NAME=\"A system\"\n");
    folder.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    folder.write("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       1024 kB\n");
    const std::string cpu = "sys/devices/system/cpu/cpu3/";
    folder.write(cpu + "topology/thread_siblings_list", "3,7\n");
    folder.write(cpu + "cpufreq/scaling_governor", "powersave\n");
    folder.write(cpu + "cpufreq/scaling_cur_freq", "1000000\n");
    folder.write(cpu + "cpufreq/base_frequency", "2000000\n");
    folder.write(cpu + "cache/index0/level", "2\n");
    folder.write(cpu + "cache/index0/type", "Unified\n");
    folder.write(cpu + "cache/index0/size", "2048K\n");
    folder.write(cpu + "cache/index0/shared_cpu_list", "0-3,8\n");
    folder.write("sys/class/net/eth1/operstate", "up\n");
    folder.write("sys/class/net/eth1/speed", "-1\n");
    folder.write("sys/class/net/eth0/operstate", "up\n");
    folder.write("sys/class/net/eth0/speed", "25000\n");
    folder.write("sys/class/net/eth2/operstate", "down\n");
    folder.write("sys/class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)\n");
    // Processing units 5 and 6 share a cache of the third level, 9 has its own.
    for (const auto& [unit, units] : {std::pair{5, "5-6"}, {6, "5-6"}, {9, "9"}}) {
        const std::string cache = "sys/devices/system/cpu/cpu" + std::to_string(unit) + "/cache/index0/";
        folder.write(cache + "level", "3\n");
        folder.write(cache + "size", "16384K\n");
        folder.write(cache + "shared_cpu_list", std::string(units) + "\n");
    }
    EXPECT_EQ(host::last_level_cache_bytes({5, 6, 9}, folder.path()), core::index_t{32} << 20U);
    host::Placement placement;
    placement.processing_units = {3};
    placement.cores = {3};
    const ordered_json rank = describe_rank(placement, true, kernels::KernelSet("portable"), folder.path());
    EXPECT_EQ(rank["cpu"]["model"], "A CPU");
    EXPECT_EQ(rank["cpu"]["microcode"], "0x2b");
    EXPECT_EQ(rank["cpu"]["mhz"], 2100);
    EXPECT_EQ(rank["cpu"]["threads_per_core"], 2);
    EXPECT_EQ(rank["cpu"]["governor"], "powersave");
    EXPECT_EQ(rank["cpu"]["caches"].dump(), R"([{"level":2,"type":"unified","bytes":2097152,"shared_by":5}])");
    EXPECT_EQ(rank["memory"]["numa"][0]["bytes"], 1048576);
    EXPECT_EQ(rank["memory"]["transparent_huge_pages"], "madvise");
    EXPECT_EQ(rank["system"]["operating_system"], "A system");
    EXPECT_EQ(rank["system"]["load"], 1.5);
    EXPECT_EQ(rank["network"].size(), 3U);
    EXPECT_EQ(rank["network"][0].dump(), R"({"name":"eth0","rate":"25000 Mb/s"})");
    EXPECT_EQ(rank["network"][1].dump(), R"({"name":"eth1","rate":null})");
    EXPECT_EQ(rank["network"][2]["name"], "mlx5_0:1");
    EXPECT_EQ(rank["network"][2]["rate"], "200 Gb/sec (4X HDR)");
    EXPECT_EQ(conditions(placement, true, folder.path()).size(), 2U);
    EXPECT_EQ(conditions(placement, false, folder.path()).size(), 3U);
}

TEST(Disturbances, AreWhatOthersDid) {
    const SystemCounters before = {.seconds = 0, .load = 0.1};
    SystemCounters after = {.seconds = 10, .busy = 20, .load = 2};
    EXPECT_TRUE(disturbances(before, after, 20, 4).empty());
    EXPECT_EQ(disturbances(before, after, 15, 4).size(), 1U);  // others: 5 of 40 CPU seconds
    after.stolen = 4;
    EXPECT_EQ(disturbances(before, after, 20, 4).size(), 1U);
    after.throttled = 1;
    EXPECT_EQ(disturbances({.load = 3}, after, 15, 4).size(), 4U);
}

}  // namespace
}  // namespace moesaic::bench
