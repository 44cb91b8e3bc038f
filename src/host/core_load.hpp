// How much of the cores' time processes use.
#pragma once

#include <filesystem>
#include <map>
#include <span>

namespace moesaic::host {

/// CPU seconds that all processes have used so far, by the operating-system index of the processing unit.
using BusyTimes = std::map<int, double>;

/// Reads `root`/proc/stat; nothing where the system doesn't tell. Format: "proc_stat(5)".
[[nodiscard]] BusyTimes read_busy_times(const std::filesystem::path& root = "/");

/// How many of the processing units `units` were busy on average for `seconds` between two readings.
[[nodiscard]] double busy_units(const BusyTimes& before, const BusyTimes& after, double seconds,
                                std::span<const int> units);

}  // namespace moesaic::host
