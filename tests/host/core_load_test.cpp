#include "host/core_load.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fmt/format.h>

#include <array>

namespace moesaic::host {
namespace {

TEST(CoreLoad, IsThatOfTheGivenUnits) {
    const test::TemporaryFolder root;
    const long second = sysconf(_SC_CLK_TCK);
    root.write("proc/stat", fmt::format("cpu  9 9 9 9\ncpu0 {0} 0 0 7\ncpu2 0 {0} {0} 7\nctxt 5\n", second));
    const BusyTimes before = read_busy_times(root.path());
    root.write("proc/stat",
               fmt::format("cpu  9 9 9 9\ncpu0 {0} 0 0 9\ncpu2 0 {0} {1} 7\nctxt 5\n", second, 3 * second));
    const BusyTimes after = read_busy_times(root.path());
    EXPECT_EQ(busy_units(before, after, 4, std::array{0}), 0);
    EXPECT_EQ(busy_units(before, after, 4, std::array{2}), 0.5);
    EXPECT_EQ(busy_units(before, after, 2, std::array{0, 2, 9}), 1);
    EXPECT_EQ(busy_units(before, after, 0, std::array{2}), 0);
}

TEST(CoreLoad, OfThisHostIsKnown) {
    EXPECT_FALSE(read_busy_times().empty());
}

}  // namespace
}  // namespace moesaic::host
