#include "host/limits.hpp"

#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>

namespace moesaic::host {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t mebibyte = 1024 * 1024;

/// An imitation of the root folder with 1000 MiB of memory, of which 800 are available.
class HostLimitsTest : public testing::Test {
protected:
    HostLimitsTest() { write("proc/meminfo", "MemTotal:  1024000 kB\nMemFree:  1 kB\nMemAvailable:  819200 kB\n"); }

    void write(const fs::path& file, const std::string& text) const { root_.write(file, text); }
    void write_mebibytes(const fs::path& file, std::uint64_t size) const {
        write(file, std::to_string(size * mebibyte) + "\n");
    }
    [[nodiscard]] HostLimits limits() const { return read_host_limits(root_.path()); }
    void expect(std::uint64_t total, std::uint64_t available, double cpus) const {
        EXPECT_EQ(limits().memory_bytes, total * mebibyte);
        EXPECT_EQ(limits().memory_available_bytes, available * mebibyte);
        EXPECT_EQ(limits().cpus, cpus);
    }

private:
    test::TemporaryFolder root_;
};

TEST_F(HostLimitsTest, WithoutControlGroups) {
    expect(1000, 800, INFINITY);
}

TEST_F(HostLimitsTest, Version2) {
    write("proc/self/cgroup", "0::/job/step\n");
    write("sys/fs/cgroup/job/step/memory.max", "max\n");
    write("sys/fs/cgroup/job/step/cpu.max", "max 100000\n");
    expect(1000, 800, INFINITY);
    write_mebibytes("sys/fs/cgroup/job/memory.max", 500);  // an ancestor limits its children
    write_mebibytes("sys/fs/cgroup/job/memory.current", 300);
    write("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file " + std::to_string(100 * mebibyte) + "\n");
    write("sys/fs/cgroup/job/cpu.max", "250000 100000\n");
    expect(500, 300, 2.5);
}

TEST_F(HostLimitsTest, Version1) {
    write("proc/self/cgroup", "7:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n0::/\n");
    // The container sees its own group as the root of the mount.
    write_mebibytes("sys/fs/cgroup/memory/memory.limit_in_bytes", 400);
    write_mebibytes("sys/fs/cgroup/memory/memory.usage_in_bytes", 390);
    write("sys/fs/cgroup/memory/memory.stat", "total_inactive_file " + std::to_string(90 * mebibyte) + "\n");
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n");
    expect(400, 100, 3.0);
}

TEST_F(HostLimitsTest, Version1WithoutLimits) {
    write("proc/self/cgroup", "7:cpu:/\n5:memory:/\n");
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    expect(1000, 800, INFINITY);
}

TEST_F(HostLimitsTest, UsageAboveTheLimitLeavesNothing) {
    write("proc/self/cgroup", "0::/\n");
    write_mebibytes("sys/fs/cgroup/memory.max", 100);
    write_mebibytes("sys/fs/cgroup/memory.current", 110);
    expect(100, 0, INFINITY);
}

TEST_F(HostLimitsTest, PathsOutsideOfTheMountAndTornLinesAreIgnored) {
    write("proc/self/cgroup", "0::/../../other\nnonsense\n3:memory\n");
    write_mebibytes("sys/fs/cgroup/memory.max", 700);
    write_mebibytes("sys/other/memory.max", 1);
    expect(700, 700, INFINITY);
}

TEST_F(HostLimitsTest, SlowedVersion2CountsToo) {
    write("proc/self/cgroup", "0::/job\n");
    write_mebibytes("sys/fs/cgroup/job/memory.max", 600);
    write_mebibytes("sys/fs/cgroup/job/memory.high", 500);
    expect(500, 500, INFINITY);
    EXPECT_NE(limits().memory_group.find("job is limited to 0.49 GiB"), std::string::npos) << limits().memory_group;
}

TEST_F(HostLimitsTest, ResourceLimitsAreOfTheProcess) {
    const auto pages = [](std::uint64_t mebibytes) {
        return std::to_string(mebibytes * mebibyte / static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
    };
    write("proc/self/statm", pages(300) + " 9 9 9 0 " + pages(100) + " 0\n");
    write("proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\nMax address space  unlimited  unlimited  bytes\n");
    EXPECT_EQ(limits().process_bytes, std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(limits().process_limit, "");
    write("proc/self/limits", "Max address space   " + std::to_string(1024 * mebibyte) + "  unlimited  bytes\n");
    EXPECT_EQ(limits().process_bytes, 724 * mebibyte);
    EXPECT_EQ(limits().process_limit, "ulimit -v (RLIMIT_AS) is 1.00 GiB");
    write("proc/self/limits", "Max data size   " + std::to_string(512 * mebibyte) + "  unlimited  bytes\n");
    EXPECT_EQ(limits().process_bytes, 412 * mebibyte);
    EXPECT_EQ(limits().process_limit, "ulimit -d (RLIMIT_DATA) is 0.50 GiB");
    expect(1000, 800, INFINITY);
}

TEST(HostLimits, OfThisHost) {
    const HostLimits limits = read_host_limits();
    const auto physical =
        static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    EXPECT_GT(limits.memory_available_bytes, 0U);
    EXPECT_LE(limits.memory_available_bytes, limits.memory_bytes);
    EXPECT_LE(limits.memory_bytes, physical);
    EXPECT_GT(limits.cpus, 0.0);
}

}  // namespace
}  // namespace moesaic::host
