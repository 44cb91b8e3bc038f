#include "host/peak_memory.hpp"

#include <fstream>
#include <limits>
#include <string>

namespace moesaic::host {

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

}  // namespace moesaic::host
