// Results in the JSON format of Google Benchmark, for its tools, as compare.py.
#pragma once

#include "measure/results.hpp"

namespace moesaic::bench {

/// Every sample of what is a time or a rate becomes an iteration of "CASE/FIGURE". Rates are given as the time of one
/// unit. Format: docs/user_guide.md of Google Benchmark, "Output Formats".
[[nodiscard]] nlohmann::ordered_json to_google_benchmark(const measure::Results& results);

}  // namespace moesaic::bench
