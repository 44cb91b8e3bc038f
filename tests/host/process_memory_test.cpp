#include "host/process_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
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

/// Of pages that a child has, too, half.
TEST(ProcessMemory, PagesOfSeveralProcessesCountInParts) {
    constexpr std::size_t bytes = std::size_t{64} << 20U;
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    auto* const words = static_cast<volatile char*>(memory);
    const auto touch = [&] {
        for (std::size_t i = 0; i < bytes; i += 4096) {
            words[i] = 1;
        }
    };
    touch();
    const std::uint64_t alone = proportional_memory_bytes();
    const std::uint64_t peak_alone = peak_memory_bytes();
    std::array<int, 2> begin{};
    std::array<int, 2> end{};
    ASSERT_EQ(pipe(begin.data()) + pipe(end.data()), 0);
    const pid_t child = fork();
    if (child == 0) {
        touch();
        char byte = 0;
        static_cast<void>(write(begin[1], &byte, 1) + read(end[0], &byte, 1));
        _exit(0);
    }
    char byte = 0;
    ASSERT_EQ(read(begin[0], &byte, 1), 1);
    EXPECT_GE(resident_memory_bytes(), bytes);
    EXPECT_LT(proportional_memory_bytes() + bytes / 2, alone + bytes / 16);
    EXPECT_LT(peak_memory_bytes() + bytes / 2, peak_alone + bytes / 16);
    ASSERT_EQ(write(end[1], &byte, 1), 1);
    waitpid(child, nullptr, 0);
    munmap(memory, bytes);
}

/// What others hold between phases does not count; what a phase keeps does.
TEST(ProcessMemory, OfPhasesIsTheirsAlone) {
    constexpr std::size_t mebibyte = std::size_t{1} << 20U;
    MemoryOfPhases memory;
    const std::vector<char> kept(128 * mebibyte, 1);
    memory.end();
    const std::vector<char> of_others(512 * mebibyte, 1);
    memory.begin();
    const char last = std::vector<char>(64 * mebibyte, 1).back();
    memory.end();
    EXPECT_NEAR(memory.peak_bytes(), 192.0 * mebibyte, 16.0 * mebibyte);
    EXPECT_EQ(kept.back() + of_others.back() + last, 3);
}

/// Small blocks that stay between large ones would keep these in the heap.
TEST(ProcessMemory, GoesBackWhenItIsFreed) {
    constexpr std::size_t mebibyte = std::size_t{1} << 20U;
    const char last = std::vector<char>(16 * mebibyte, 1).back();  // glibc then has blocks up to this size in the heap
    return_freed_memory();
    const std::uint64_t before = resident_memory_bytes();
    std::vector<std::vector<char>> large;
    std::vector<std::unique_ptr<char>> small;
    for (int i = 0; i < 32; ++i) {
        large.emplace_back(4 * mebibyte, last);
        small.push_back(std::make_unique<char>(last));
    }
    EXPECT_GE(resident_memory_bytes(), before + 120 * mebibyte);
    large.clear();
    EXPECT_LT(resident_memory_bytes(), before + 16 * mebibyte);
    EXPECT_EQ(small.size(), 32U);
}

}  // namespace
}  // namespace moesaic::host
