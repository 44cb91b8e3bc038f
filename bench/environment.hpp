// Where results come from: what each rank finds out about its machine, and where ranks differ.
#pragma once

#include "host/placement.hpp"
#include "kernels/kernel_set.hpp"
#include "measure/results.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moesaic::bench {

/// What this executable was built from and with, as docs/results.md describes it.
[[nodiscard]] nlohmann::ordered_json describe_program();

/// This rank as docs/results.md describes it. `root` holds the folders proc, sys and etc of Linux; what is missing
/// there is left out or null.
[[nodiscard]] nlohmann::ordered_json describe_rank(const host::Placement& placement, bool threads_bound,
                                                   const kernels::KernelSet& kernels,
                                                   const std::filesystem::path& root = "/");

/// Keys whose values are not the same on all ranks, with the ranks that have each value. What must differ is left out:
/// the rank's number and name, its place, and what changes from moment to moment.
[[nodiscard]] std::vector<measure::Difference> differences(const std::vector<nlohmann::ordered_json>& ranks);

}  // namespace moesaic::bench
