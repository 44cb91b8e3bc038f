#include "host/core_load.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace moesaic::host {

BusyTimes read_busy_times(const std::filesystem::path& root) {
    const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
    BusyTimes times;
    std::ifstream stat(root / "proc/stat");
    for (std::string line; std::getline(stat, line);) {
        std::istringstream words(line);
        std::string name;
        double user = 0;
        double nice = 0;
        double system = 0;
        // The line "cpu", without a number, is the sum of all.
        if (words >> name >> user >> nice >> system && name.starts_with("cpu") && name.size() > 3) {
            times[std::stoi(name.substr(3))] = (user + nice + system) / ticks_per_second;
        }
    }
    return times;
}

double busy_units(const BusyTimes& before, const BusyTimes& after, double seconds, std::span<const int> units) {
    double busy = 0;
    for (const int unit : units) {
        const auto first = before.find(unit);
        const auto last = after.find(unit);
        if (first != before.end() && last != after.end() && seconds > 0) {
            busy += std::clamp((last->second - first->second) / seconds, 0.0, 1.0);
        }
    }
    return busy;
}

}  // namespace moesaic::host
