// moesaic bench collectives: what training exchanges between ranks, beside a ping-pong over the same transport.
#pragma once

#include "bench/report.hpp"
#include "core/matrix.hpp"

#include <vector>

namespace moesaic::bench {

using core::index_t;

struct CollectiveSettings {
    std::vector<index_t> bytes;  ///< message sizes; what they are the size of: docs/benchmarking.md
    index_t repeat = 7;          ///< measurements of each
};

/// Collective. Checks the result of every operation at every size, then measures. Throws with
/// ExitCode::verification_failed on all ranks if a result is wrong. The report's world has two ranks or more.
void run_collective_benchmark(Report& report, const CollectiveSettings& settings);

}  // namespace moesaic::bench
