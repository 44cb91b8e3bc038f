#include "host/process_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace moesaic::host {
namespace {

/// Bytes of a line "KEY NUMBER kB" in a file of /proc; 0 if it is missing.
std::uint64_t read_bytes(const char* file, std::string_view wanted) {
    constexpr std::uint64_t kibibyte = 1024;
    std::ifstream stream(file);
    for (std::string key; stream >> key;) {
        if (key == wanted) {
            std::uint64_t kibibytes = 0;
            stream >> kibibytes;
            return kibibytes * kibibyte;
        }
        stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return 0;
}

/// Bytes of resident memory that other processes account for.
std::uint64_t bytes_of_others() {
    constexpr const char* file = "/proc/self/smaps_rollup";
    const std::uint64_t resident = read_bytes(file, "Rss:");
    return resident - std::min(resident, read_bytes(file, "Pss:"));
}

}  // namespace

std::uint64_t resident_memory_bytes() {
    std::ifstream statm("/proc/self/statm");
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    statm >> total >> resident;
    return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t proportional_memory_bytes() {
    const std::uint64_t resident = resident_memory_bytes();
    return resident - std::min(resident, bytes_of_others());
}

void reset_peak_memory() {
    std::ofstream("/proc/self/clear_refs") << "5";  // proc(5): resets the peak resident set size
}

std::uint64_t peak_memory_bytes() {
    const std::uint64_t peak = read_bytes("/proc/self/status", "VmHWM:");
    return peak - std::min(peak, bytes_of_others());
}

void return_freed_memory() {
#ifdef __GLIBC__
    constexpr int large = 1 << 19;
    mallopt(M_MMAP_THRESHOLD, large);
    malloc_trim(0);
#endif
}

void MemoryOfPhases::begin() {
    reset_peak_memory();
    before_ = static_cast<double>(proportional_memory_bytes());
}

void MemoryOfPhases::end() {
    peak_ = std::max(peak_, kept_ + static_cast<double>(peak_memory_bytes()) - before_);
    kept_ += static_cast<double>(proportional_memory_bytes()) - before_;
}

}  // namespace moesaic::host
