#include "host/process_memory.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace moesaic::host {
namespace {

TEST(ProcessMemory, GrowsWithWhatIsTouched) {
    constexpr std::size_t bytes = std::size_t{64} << 20U;
    const std::uint64_t before = resident_memory_bytes();
    ASSERT_GT(before, 0U);
    const std::vector<char> touched(bytes, 1);
    EXPECT_GE(resident_memory_bytes(), before + bytes / 2);
    EXPECT_GE(peak_memory_bytes(), before + bytes / 2);
    EXPECT_EQ(touched.back(), 1);
}

}  // namespace
}  // namespace moesaic::host
