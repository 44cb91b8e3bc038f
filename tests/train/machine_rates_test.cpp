// Rates of the machine that are kept for the next run.
#include "train/machine_rates.hpp"

#include "io/files.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace moesaic::train {
namespace {

using test::TemporaryFolder;

MachineRates some_rates() {
    return {.limits = {1.5e12, 3e10}, .threads = 4, .host = {2e9, 5e8, 2e-5}, .network = {1e9, 3e8, 7e-5}};
}

TEST(MachineRates, OtherThreadsHaveTheirShare) {
    const MachineRates half = some_rates().with_threads(2);
    EXPECT_DOUBLE_EQ(half.limits.peak_flops, 0.75e12);
    EXPECT_DOUBLE_EQ(half.limits.bytes_per_second, 1.5e10);
    EXPECT_EQ(half.threads, 2);
    EXPECT_EQ(half.host.gather, some_rates().host.gather);
}

TEST(RatesCache, KeepsWhatWasMeasured) {
    const TemporaryFolder folder;
    const RatesCache cache(folder / "new" / "cache");
    EXPECT_FALSE(cache.read("a CPU; ranks 2"));
    cache.write("a CPU; ranks 2", some_rates());
    const auto found = cache.read("a CPU; ranks 2");
    ASSERT_TRUE(found);
    EXPECT_EQ(found->limits.peak_flops, some_rates().limits.peak_flops);
    EXPECT_EQ(found->limits.bytes_per_second, some_rates().limits.bytes_per_second);
    EXPECT_EQ(found->threads, 4);
    for (const auto& [link, expected] :
         {std::pair(found->host, some_rates().host), std::pair(found->network, some_rates().network)}) {
        EXPECT_EQ(link.gather, expected.gather);
        EXPECT_EQ(link.sum, expected.sum);
        EXPECT_EQ(link.latency, expected.latency);
    }
    EXPECT_FALSE(cache.read("a CPU; ranks 4"));
}

/// Whatever the file holds: it is as if it were not there, unless it could have been measured.
TEST(RatesCache, TrustsNoFile) {
    const TemporaryFolder folder;
    const RatesCache cache(folder.path());
    cache.write("key", some_rates());
    const std::filesystem::path file = cache.file_of("key");
    const std::string good = io::read_file(file, 10000);
    const auto with = [&](const std::string& part, const std::string& other) {
        std::string text = good;
        const std::size_t at = text.find(part);
        EXPECT_NE(at, std::string::npos) << part;
        return text.replace(at, part.size(), other);
    };
    for (const std::string& text :
         {std::string(), std::string("{"), std::string("[1, 2]"), with("\"key\"", "\"another\""),
          with("\"operations_per_second\": 1500000000000.0", "\"operations_per_second\": 0"),
          with("\"operations_per_second\": 1500000000000.0", "\"operations_per_second\": 1e300"),
          with("\"operations_per_second\": 1500000000000.0", "\"operations_per_second\": \"fast\""),
          with("\"seconds_of_call_within_host\"", "\"seconds\""), with("\"threads\": 4", "\"threads\": -4"),
          with("\"threads\": 4", "\"threads\": 0"), good + std::string(100000, ' ')}) {
        io::write_file_atomically(file, text);
        EXPECT_FALSE(cache.read("key")) << text.substr(0, 200);
    }
    io::write_file_atomically(file, good);
    EXPECT_TRUE(cache.read("key"));
}

TEST(RatesCache, FoldersThatCanNotBeWrittenAreNoErrors) {
    const TemporaryFolder folder;
    const std::filesystem::path file = folder.write("file", "text");
    for (const RatesCache& cache : {RatesCache({}), RatesCache(file), RatesCache(file / "below")}) {
        cache.write("key", some_rates());
        EXPECT_FALSE(cache.read("key"));
    }
    EXPECT_EQ(io::read_file(file, 100), "text");
}

}  // namespace
}  // namespace moesaic::train
