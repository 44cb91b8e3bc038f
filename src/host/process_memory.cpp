#include "host/process_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace moesaic::host {

std::uint64_t resident_memory_bytes() {
    std::ifstream statm("/proc/self/statm");
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    statm >> total >> resident;
    return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

void reset_peak_memory() {
    std::ofstream("/proc/self/clear_refs") << "5";  // proc(5): resets the peak resident set size
}

std::uint64_t peak_memory_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string key; status >> key;) {
        if (key == "VmHWM:") {
            std::uint64_t kibibytes = 0;
            status >> kibibytes;
            return kibibytes * 1024;
        }
        status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return 0;
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
    before_ = static_cast<double>(resident_memory_bytes());
}

void MemoryOfPhases::end() {
    peak_ = std::max(peak_, kept_ + static_cast<double>(peak_memory_bytes()) - before_);
    kept_ += static_cast<double>(resident_memory_bytes()) - before_;
}

}  // namespace moesaic::host
